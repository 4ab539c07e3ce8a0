# A PostgreSQL server for one test process: prints its folder when it answers, and ends with
# everything it made when its standard input does, however the test process came to its end.
set -eu

bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | sort -V | tail -n 1)
[ -x "${bin:-/nowhere}/postgres" ] || bin=$(dirname "$(command -v postgres)" 2>/dev/null) || bin=
[ -n "$bin" ] || { echo "missing: no PostgreSQL is installed (Debian: postgresql)"; exit 0; }

as=
if [ "$(id -u)" = 0 ]; then # the server refuses to be root
  id postgres >/dev/null 2>&1 || { echo "missing: there is no user postgres"; exit 0; }
  as="setpriv --reuid=postgres --regid=postgres --init-groups"
fi
cd /
folder=$($as mktemp -d /var/tmp/miosa-store-XXXXXX)
server=
finish() {
  [ -z "$server" ] || kill -QUIT "$server" 2>/dev/null || true
  [ -z "$server" ] || wait "$server" || true
  rm -rf "$folder"
}
trap finish EXIT
trap '' PIPE # a test that is gone before its server answers
trap 'exit 1' HUP INT TERM

# An order of letters as unlike the order of bytes as any that people use.
$as "$bin/initdb" -D "$folder/data" -N -A trust -U postgres -E UTF8 \
  --locale=C.UTF-8 --locale-provider=icu --icu-locale=en-US >"$folder/log" 2>&1 ||
  { cat "$folder/log" >&2; exit 1; }
# If this shell is killed, the server goes with it.
$as setpriv --pdeathsig QUIT "$bin/postgres" -D "$folder/data" -k "$folder" \
  -c listen_addresses= -c fsync=off -c full_page_writes=off -c shared_buffers=16MB \
  -c max_connections=100 -c dynamic_shared_memory_type=mmap </dev/null >>"$folder/log" 2>&1 &
server=$!
until "$bin/pg_isready" -q -h "$folder"; do
  kill -0 "$server" 2>/dev/null || { cat "$folder/log" >&2; exit 1; }
  sleep 0.02
done
echo "$folder"
read -r _ || true
