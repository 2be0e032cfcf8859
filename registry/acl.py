"""Least privilege: the Redis users of this house, as lines of an ACL file.

Three planes of keys (``redis_keys.py``) make three patterns. The data plane reads the control keys and writes only
traffic; it can neither write a version nor move a pointer, whatever happens to the process. ``%R~`` patterns need Redis
7 or Valkey: an older server cannot tell reading from writing by key.
"""

from __future__ import annotations

import hashlib
from typing import Final

from registry.redis_keys import PREFIX

DATA_PLANE_USER: Final = "metaspo-gateway"
CONTROL_USER: Final = "metaspo-control"

_BOTH = (
    "-@all +@connection -client|kill +cluster|slots +cluster|shards +cluster|nodes +cluster|keyslot"
    " +command +info +dbsize"
)
_DATA_PLANE = (
    f"{_BOTH} +get +set +mget +del +exists +expire +ttl"
    " +hget +hgetall +hset +hdel +hlen +hexists +hkeys +hmget +hincrbyfloat"
    " +zadd +zrange +zrangebyscore +zrevrange +zrevrangebyscore +zscore +zcard +zrem +zpopmax"
    " +zremrangebyrank +zremrangebyscore +smembers +sismember +xadd +xrange +xrevrange +xlen"
    " +eval +evalsha +eval_ro +evalsha_ro +script|load +subscribe +unsubscribe +multi +exec +discard"
)
_CONTROL = f"{_BOTH} +@read +@write +@stream +@scripting +@pubsub +@transaction +config|get +time -flushall -flushdb"


def acl_file(passwords: dict[str, str], prefix: str = PREFIX, queue_pattern: str = "taskiq*") -> str:
    """The ACL file: user -> password, stored as SHA-256. ``queue_pattern``: keys of the jobs' queue library.

    Users that are not named in ``passwords`` are left out; the default user is switched off.
    """
    lines = ["user default off resetchannels -@all"]
    planes = {
        DATA_PLANE_USER: [f"%R~{prefix}:c:*", f"~{prefix}:t:*", f"&{prefix}:moved", _DATA_PLANE],
        CONTROL_USER: [f"~{prefix}:*", f"~{queue_pattern}", f"&{prefix}:*", f"&{queue_pattern}", _CONTROL],
    }
    for user, rules in planes.items():
        if user in passwords:
            digest = hashlib.sha256(passwords[user].encode()).hexdigest()
            lines.append(f"user {user} on #{digest} resetkeys resetchannels {' '.join(rules)}")
    return "\n".join(lines) + "\n"
