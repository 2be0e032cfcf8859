#!/bin/sh
# The gateway with curl: an answer with its headers, then feedback on it.
set -eu
url=${METASPO_URL:-http://127.0.0.1:8080}
headers=$(mktemp)
trap 'rm -f "$headers"' EXIT
curl -sS --fail-with-body -D "$headers" "$url/v1/chat/completions" \
  -H "authorization: Bearer $METASPO_KEY" -H 'content-type: application/json' \
  -d "{\"model\": \"${METASPO_MODEL:-gpt-4o-mini}\", \"messages\": [{\"role\": \"user\", \"content\": \"Where is my parcel?\"}]}"
echo
grep -i '^x-metaspo-' "$headers"
exchange=$(sed -n 's/^x-metaspo-exchange: *//Ip' "$headers" | tr -d '\r')
curl -sS --fail-with-body "$url/v1/feedback" -H "authorization: Bearer $METASPO_KEY" -H 'content-type: application/json' \
  -d "{\"exchange\": \"$exchange\", \"thumb\": \"up\"}"
echo
