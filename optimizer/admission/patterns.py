"""Tables of the linter: what each class looks like. A table row is (what it is, pattern); the first match is reported.

Patterns are narrow on purpose: ordinary instructions ("Ignore parts of the text that do not matter", "Answer with a
score from 1 to 5" where the incumbent speaks of scores) have to pass, and a test runs the project's own sentences
through all of them.
"""

# ruff: noqa: E501  -- a pattern broken over lines is harder to read than a long one
from __future__ import annotations

import re

Table = tuple[tuple[str, re.Pattern[str]], ...]


def _table(*rows: tuple[str, str], flags: int = re.IGNORECASE) -> Table:
    return tuple((what, re.compile(pattern, flags)) for what, pattern in rows)


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


WORD = re.compile(r"[^\W\d_]+")
CJK = frozenset({"CJK", "HIRAGANA", "KATAKANA", "HANGUL"})

SECRETS = _table(
    ("a key of a model provider", r"\b(?:sk|pk|rk)-(?:ant-|proj-|live-|test-)?[A-Za-z0-9_-]{12,}"),
    ("a cloud access key", r"\b(?:AKIA|ASIA|AGPA|AIDA)[A-Z0-9]{12,}\b"),
    ("a cloud API key", r"\bAIza[A-Za-z0-9_-]{20,}"),
    ("a repository token", r"\b(?:gh[pousr]_[A-Za-z0-9]{16,}|github_pat_\w{20,}|glpat-[\w-]{12,})"),
    ("a chat service's token", r"\bxox[abeoprs]-[A-Za-z0-9-]{8,}"),
    ("a payment key", r"\b[sr]k_(?:live|test)_[A-Za-z0-9]{8,}"),
    ("a signed token", r"\beyJ[\w-]{8,}\.[\w-]{8,}\.?[\w-]*"),
    ("a private key", r"-----BEGIN [A-Z ]*PRIVATE KEY"),
    (
        "a password",
        r"\b(?:pass(?:word|phrase|code)|pwd|secret|api[ _-]?key|access[ _-]?token|pin)\s*(?:is|are|[:=])\s*\S+",
    ),
    ("a bearer token", r"\bbearer\s+[A-Za-z0-9._~+/-]{12,}"),
    flags=0,
) + _table(("a password", r"\b(?:password|passphrase|api key|secret key|access token)\s*(?:is|[:=])\s*[\"'`]?\S{4,}"))

DETECTORS = (
    "ArtifactoryDetector", "AWSKeyDetector", "AzureStorageKeyDetector", "BasicAuthDetector", "DiscordBotTokenDetector",
    "GitHubTokenDetector", "GitLabTokenDetector", "JwtTokenDetector", "MailchimpDetector", "NpmDetector", "OpenAIDetector",
    "PrivateKeyDetector", "PypiTokenDetector", "SendGridDetector", "SlackDetector", "SquareOAuthDetector", "StripeDetector",
    "TelegramBotTokenDetector", "TwilioKeyDetector",
)  # fmt: skip
"""The detectors of detect-secrets that look for a fixed shape."""

PERSONAL = _table(
    ("an e-mail address", r"[\w.+-]+\s?(?:@|\(at\)|\[at\])\s?[\w-]+(?:\.|\s?\(dot\)\s?)[A-Za-z]{2,}"),
    ("a phone number", r"(?<![\w.])(?:\+\d{1,3}[ .-]?)?(?:\(\d{2,4}\)[ .-]?)?\d{2,4}(?:[ .-]\d{2,4}){2,4}(?!\w)"),
    ("a phone number", r"(?<!\w)\+\d{1,3}(?:[ .()/-]{0,2}\d){6,14}\b"),
    ("a bank account", r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){3,7}(?: ?[A-Z0-9]{1,3})?\b"),
    ("a card number", r"\b(?:\d[ -]?){13,19}\b"),
    ("a social security number", r"\b\d{3}-\d{2}-\d{4}\b"),
    ("a redaction mark", r"<[A-Z]{2,}_\d+>"),
)

LINKS = _table(
    ("an address on the web", r"\b(?:https?|ftp|file|data|javascript|wss?)\s?:\s?(?://|[\w+/-]+[,;])\S*"),
    ("an address on the web", r"\bwww\.\S+"),
    (
        "an address on the web",
        r"\b[\w-]+(?:\.|\[\.\]|\(dot\))(?:com|org|net|io|ai|dev|app|info|biz|ru|cn|de|uk|example|test|invalid|xyz)\b",
    ),
    ("an IP address", r"\b(?:\d{1,3}\.){3}\d{1,3}\b"),
    ("an IP address", r"\b(?:[0-9a-f]{1,4}:){4,7}[0-9a-f]{1,4}\b"),
    ("a markdown image or link", r"!?\[[^\]\n]*\]\([^)\n]*\)"),
)

MARKUP = _table(
    (
        "HTML",
        r"</?(?:a|img|script|style|iframe|svg|form|input|link|meta|div|span|p|br|body|html|object|embed|video|audio)\b[^>\n]*>",
    ),
    ("HTML", r"&(?:#\d+|#x[0-9a-f]+|lt|gt|amp|quot|nbsp);"),
    ("a code fence", r"```|~~~"),
    (
        "encoded text",
        r"(?:[A-Za-z0-9+/]{40,}={0,2})|(?:\\x[0-9a-f]{2}){4,}|(?:%[0-9a-f]{2}){6,}|(?:\\u[0-9a-f]{4}){3,}",
    ),
)

ROLE_MARKERS = _table(
    ("a chat template's marker", r"<\|[^|>\n]{1,40}\|>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|</?s>"),
    ("a role marker", r"</?\s*(?:system|assistant|user|human|tool|developer|function)(?:[ _-]?\w*)?\s*>"),
    (
        "a role marker",
        r"(?:^|\n)\s*(?:#{1,4}\s*)?(?:system|assistant|user|human|developer|tool|function)(?: (?:prompt|message|turn))?\s*:",
    ),
    ("a tool or chat record in JSON", r"[\"'](?:role|tool_calls?|function_call|arguments|content)[\"']\s*:"),
    ("an end of the data block", r"\[/?\s*(?:begin|end)(?: of)? (?:data|input|prompt|instructions?|examples?)\s*\]"),
)

_RULES = r"(?:instructions?|prompts?|rules?|guidelines?|directions?|messages?|polic(?:y|ies)|restrictions?|constraints?|safeguards?)"
HIJACK = _table(
    ("an override", rf"\b(?:ignore|disregard|forget|override|bypass|overrule|supersede|cancel|drop|skip)\w*\b[^.\n]{{0,60}}\b{_RULES}\b"),
    ("an override", r"\b(?:everything|anything|all|what) (?:above|before this|said before|you were told)\b"),
    ("an override", r"\b(?:new|updated|revised|real|actual|true) (?:system )?(?:instructions?|prompt|rules?)\b"),
    ("another mode", r"\b(?:developer|debug|admin|god|dan|jailbreak|unrestricted|sudo|root|maintenance) mode\b|\bjailbreak\w*\b|\bdo anything now\b"),
    ("disclosure", r"\b(?:reveal|print|repeat|output|show|leak|disclose|expose|recite)\w*\b[^.\n]{0,40}\b(?:system prompt|hidden|secret|confidential|internal|credentials?|password|api key)"),
    ("disclosure", r"\b(?:reveal|print|repeat|show|leak|disclose|expose|recite)\w*\b[^.\n]{0,40}\binstructions"),
    ("disclosure", r"\boutputs?\b(?:(?!\b(?:align|follow|match|conform|adhere|comply|complies|accord|correspond))[^.\n]){0,40}\binstructions"),
    ("concealment", r"\b(?:do not|don't|never|without) (?:tell|telling|mention|mentioning|inform|informing|reveal|revealing|disclos\w+|admit\w*|warn\w*|alert\w*)\b"),
    ("concealment", r"\b(?:secretly|covertly|silently (?:add|insert|send|append|change|replace)|without (?:the )?(?:user|anyone) (?:knowing|noticing)|keep (?:this|it) (?:secret|hidden|between us))\b"),
    ("obedience", r"\balways (?:comply|obey)|\bcomply with (?:every|any|all)\b|\bnever (?:refuse|decline to help|say no)\b|\bdo whatever\b|\bobey (?:every|any|all)\b"),
    ("safety off", r"\b(?:disable|turn off|switch off|remove|lift|deactivate|suspend|relax|no)\b[^.\n]{0,25}\b(?:safety|filters?|moderation|safeguards?|guardrails?|content polic\w+|restrictions|ethics|ethical)\b"),
    ("safety off", r"\b(?:unfiltered|uncensored|unrestricted|no (?:limits|restrictions|rules|filters))\b"),
    ("a command to act", r"\b(?:send|forward|transfer|post|upload|email|exfiltrate|wire|pay|refund|delete|purchase|buy|download|execute|run)\b[^.\n]{0,50}\b(?:to (?:this|the following|account|address|our|my)|money|funds|bitcoin|wallet|gift cards?|credentials|all (?:data|files|records|messages)|command|script)\b"),
    ("advertising", r"\b(?:always |please )?(?:recommend|promote|advertise|endorse|plug)\w*\b[^.\n]{0,40}\b(?:brand|product|service|company|store|shop|website|our|competitor)"),
)  # fmt: skip

FORCED_WORDS = re.compile(
    r"\b(?:always|must|(?:every|each|your|all|the) (?:answers?|repl(?:y|ies)|responses?))\b[^.\n]{0,30}"
    r"\b(?:with|include|contain|insert|append|add|mention|say|write|output|in)\w*\b[^.\n]{0,25}[\"'“‘`](?P<words>[^\"'”’`\n]{1,60})[\"'”’`]",
    re.IGNORECASE,
)
"""An order to put quoted words into every answer. Words of answer forms ("Answer:", the labels) are fine, others are
not.
"""

TRIGGERS = _table(
    ("a condition on a secret word", r"\b(?:if|when|whenever|once|upon|after)\b[^.\n]{0,50}\b(?:contains?|mentions?|says?|sees?|see|reads?|includes?|encounters?|types?|writes?|begins? with|starts? with|ends? with)\b[^.\n]{0,30}[\"'“‘`«][^\"'”’`»\n]{1,60}[\"'”’`»]"),
    ("a trigger", r"\b(?:trigger|magic|secret|code|pass) ?(?:word|phrase|token)s?\b|\bactivation (?:word|phrase|code)\b|\bbackdoor\b|\bsleeper\b"),
)  # fmt: skip

JUDGE = _table(
    ("speaks to a judge", r"\b(?:graders?|grading|evaluators?|evaluations?|raters?|rubrics?|benchmarks?|leaderboards?|test set|held[- ]out|scorers?)\b"),
    ("speaks of scores", r"\b(?:scores?|scoring|scored|rewards?|high(?:est)? (?:mark|grade|rating)|ratings?)\b"),
    ("speaks of judging", r"\b(?:the|this|any|llm|ai) judge\b(?! of)|\bbeing (?:judged|graded|evaluated|scored|tested)\b|\bmark (?:this|it|the answer) (?:as )?correct\b"),
    ("praises itself", r"\b(?:this|the following|my|the above) (?:answer|response|reply|output|prompt) is (?:correct|perfect|excellent|accurate|ideal|the best|right)\b"),
)  # fmt: skip

IDENTITY = _table(
    ("claims an identity", r"\b(?:your name is|call yourself|(?<!not )(?<!n't )(?<!never )pretend (?:to be|you)|act as if you|you (?:were|are|have been) (?:made|created|built|trained|developed|hired|employed) by|you (?:work|speak|act) (?:for|at|on behalf of)|on behalf of|you are (?:human|a human|a real person|not an ai|the (?:ceo|owner|administrator|developer)))\b"),
    ("claims a model's name", r"\b(?:chatgpt|gpt-?\d\w*|claude|gemini|llama|mistral|qwen|copilot|openai|anthropic|deepmind)\b"),
    ("claims an office", r"\byou are (?:a |an )?(?:licensed|certified|qualified|registered|authori[sz]ed|board-certified)\b"),
)  # fmt: skip

POLICY = _table(
    ("makes a policy", r"\b(?:our|company|store|shop|refund|return|warranty|privacy|shipping) polic(?:y|ies)\b|\bterms (?:of service|and conditions)\b"),
    ("makes a promise", r"\b(?:guarantee[ds]?|warrant(?:y|ies)|money[- ]back|free of charge|discount|coupon|voucher|compensation|entitled to|legally)\b"),
    ("speaks for a company", r"\bwe (?:offer|refund|guarantee|ship|deliver|accept|charge|will pay|provide|promise|never|always)\b|\bour (?:company|team|customers?|products?|services?|store|prices?)\b"),
)  # fmt: skip

PLACEHOLDERS = _table(
    ("a placeholder", r"\{\{.*?\}\}|\{%.*?%\}|\$\{[^}]*\}|\{[a-z_][\w .]*\}"),
    ("a placeholder", r"<(?:insert|your|placeholder|fill|add|name|topic|task|question|answer here)[^>\n]{0,40}>|\[(?:insert|your|placeholder|fill|add|todo)[^\]\n]{0,40}\]"),
    ("a placeholder", r"\blorem ipsum\b|\bTODO\b|\bFIXME\b|\bTBD\b|\bX{3,}\b"),
)  # fmt: skip

PARSER_FAILURES = _table(
    ("a failed parse", r"\bN/?A\b\s*:?|\bformat wrong\b|\bundefined\b|^\s*(?:null|none|nan|error)\s*\.?\s*$"),
    ("an answer about the prompt", r"\b(?:here is|here's|below is|this is) (?:the|an?|my|your)\b[^.\n]{0,30}\b(?:prompt|version|rewrite|instruction)"),
    ("an answer about the prompt", r"\bimproved[_ ](?:system[_ ]|user[_ ])?prompt\b|</?\s*(?:analysis|hypothesis|findings?|instruction|improved)\w*\s*>"),
    ("a refusal instead of a prompt", r"^\s*(?:i'm sorry|i am sorry|sorry,|as an ai\b|i cannot\b|i can't\b|sure[,!]|certainly[,!]|of course[,!])"),
    ("raw JSON", r"^\s*[\[{].*[\"'].*[\]}]\s*$"),
)  # fmt: skip

NUMBER = re.compile(
    r"(?P<unit>[$€£¥#]\s?|\b(?:no|nr|order|ticket|invoice|account|case|id)\.?\s?#?)?"
    r"(?<![\w.,])(?P<digits>\d[\d,]*(?:\.\d+)?)(?!\w)",
    re.IGNORECASE,
)

UNSAYING = re.compile(
    r"[^.\n]*\b(?:not|never|no longer|don't|do not|need not|may|can|except|unless|instead|regardless|even if|optional)\b[^.\n]*",
    re.IGNORECASE,
)

FUNCTION_WORDS = _words(
    """
    a an and are as at be been but by can could do does for from had has have how if in into is it its may more
    most must no nor not of on one only or other our out over should so some such than that the their them then
    there these they this those through to too under until up very was we were what when where which while who
    will with would you your
    """
)

VOCABULARY = _words(
    """
    i english markdown json html xml csv yaml sql latex unicode ascii python javascript api url pdf ai nlp ok yes
    no true false step steps answer answers question questions final note example examples input output task tasks
    user users assistant model response responses reply replies context format formats label labels option options
    choice choices text texts instruction instructions system prompt role goal rules rule guideline guidelines
    important remember always never do don't if when for the a an and or not only first second third finally then
    be use read think write check give keep avoid ensure provide make british american european roman arabic latin
    positive negative neutral mixed none other unknown monday tuesday wednesday thursday friday saturday sunday
    january february march april may june july august september october november december
    """
)
"""Words that a prompt may write with a capital without naming anybody."""
