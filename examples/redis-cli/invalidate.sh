#!/bin/sh
# Ends entries of an unstale cache with redis-cli, by one EVALSHA.
#
#     unstale wire script invalidate > invalidate.lua      # with each deploy
#     sh invalidate.sh redis://127.0.0.1:6379/0 shop product:17 catalog
#
# Publish after the commit, as the services in Python do. docs/reference/wire.md explains every argument.
# A password is better given as REDISCLI_AUTH than in the URL, where other users of the machine can see it.
set -eu

if [ $# -lt 3 ]; then
    echo "usage: sh invalidate.sh URL NAME SCOPE..." >&2
    exit 2
fi
url=$1 name=$2
shift 2

prefix=unstale
tag="{$prefix:$name}"       # all these keys lie on one server of a cluster
records_max=100000          # the log is trimmed to about so many records
mark_life_ms=1209600000     # twice max_ttl, which is "7d" unless the services say otherwise

random() { od -An -N"$1" -tx1 /dev/urandom | tr -d ' \n'; }

# From here on "$@" are the keys: each scope is replaced by the key of its mark.
count=$#
for scope; do
    set -- "$@" "$tag:m:$scope"
done
shift "$count"
set -- "$tag:meta" "$tag:log" "$tag:ids" "$tag:members" "$@"

# The server may have forgotten the script; loading it again is harmless, and tells its SHA-1.
sha=$(redis-cli -u "$url" -e -x SCRIPT LOAD < invalidate.lua)

generation=$(random 8)      # names a new generation, if one has to begin
record=$(random 10)         # kept while a call is repeated: the same id is published once
redis-cli -u "$url" -e EVALSHA "$sha" "$#" "$@" \
    "$generation" "$records_max" "$mark_life_ms" "$record" h "$(hostname):$$" "told by a shell" "$tag:m:"
