#!/bin/sh
# Makes the passwords, keys and certificates of an installation, in secrets/ beside this script. Files that exist
# already are kept.
#   make-secrets.sh [BROKER_HOST [DATABASE_HOST]]     by default compose.yaml's: valkey, postgres
set -eu
broker=${1:-valkey}
database=${2:-postgres}
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets
# An existing folder may be open to others.
chmod 700 .

word() { openssl rand -hex 24; }
keep() { [ -s "$1" ] || printf %s "$2" > "$1"; }

keep postgres_password "$(word)"
keep valkey_password "$(word)"
keep grafana_password "$(word)"
keep pneumoscreen_flower_password "$(word)"
keep pneumoscreen_flower_cookie_secret "$(word)"
keep pneumoscreen_database_url "postgresql://pneumoscreen:$(cat postgres_password)@$database:5432/pneumoscreen"
keep pneumoscreen_broker_url "rediss://pneumoscreen:$(cat valkey_password)@$broker:6379/0"
# The rights that Celery needs, without those that administer the server; as in deploy/broker.py. The SCRIPT and
# EVALSHA commands are for kombu's own Lua scripts.
keep valkey.acl "user default off
user pneumoscreen on >$(cat valkey_password) ~* &* +@all -@admin -@dangerous -@scripting +evalsha +script|exists +script|load +info +keys
"
if [ ! -s valkey.crt ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=pneumoscreen CA" \
        -keyout ca.key -out ca.crt 2>/dev/null
    openssl req -newkey rsa:3072 -nodes -subj "/CN=$broker" -addext "subjectAltName=DNS:$broker,DNS:localhost" \
        -keyout valkey.key -out valkey.csr 2>/dev/null
    openssl x509 -req -in valkey.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
        -copy_extensions copy -out valkey.crt 2>/dev/null
    rm -f valkey.csr ca.srl
fi
# The containers have other users, who must read these files; the folder itself is closed to others.
chmod 644 ./*
chmod 600 ca.key
echo "secrets are in $(pwd)"
