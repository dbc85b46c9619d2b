#!/bin/sh
# Makes the passwords, keys and certificates that compose.yaml and the Kubernetes manifests take. Once: what
# is there already stays.
set -eu
cd "$(dirname "$0")"
umask 077
mkdir -p secrets
cd secrets

word() { openssl rand -hex 24; }
keep() { [ -s "$1" ] || printf %s "$2" > "$1"; }

keep postgres_password "$(word)"
keep valkey_password "$(word)"
keep grafana_password "$(word)"
keep pneumoscreen_flower_password "$(word)"
keep pneumoscreen_database_url "postgresql://pneumoscreen:$(cat postgres_password)@postgres:5432/pneumoscreen"
keep pneumoscreen_broker_url "rediss://pneumoscreen:$(cat valkey_password)@valkey:6379/0"
# What Celery needs, and nothing that administers the server.
keep valkey.acl "user default off
user pneumoscreen on >$(cat valkey_password) ~* &* +@all -@admin -@dangerous +info +keys
"
if [ ! -s valkey.crt ]; then
    openssl req -x509 -newkey rsa:3072 -nodes -days 3650 -subj "/CN=pneumoscreen CA" \
        -keyout ca.key -out ca.crt 2>/dev/null
    openssl req -newkey rsa:3072 -nodes -subj "/CN=valkey" -addext "subjectAltName=DNS:valkey,DNS:localhost" \
        -keyout valkey.key -out valkey.csr 2>/dev/null
    openssl x509 -req -in valkey.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 3650 \
        -copy_extensions copy -out valkey.crt 2>/dev/null
    rm -f valkey.csr ca.srl
fi
# The containers' users differ from ours; the folder itself is closed to others.
chmod 644 ./*
chmod 600 ca.key
echo "secrets are in $(pwd)"
