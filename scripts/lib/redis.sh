# Sourced by scripts/demo and scripts/test: finds or installs a Redis server, and starts a private one.
# shellcheck shell=bash
#
# For bash 3.2 (macOS) too, and with no other tools than the ones every system has.

say() { printf '%s\n' "$*"; }
fail() { printf '%s\n' "$*" >&2; exit 1; }

# Sets and exports REDIS_SERVER_BIN, installing a server if there is none.
require_redis_server() {
    if [[ -n ${REDIS_SERVER_BIN:-} ]]; then
        command -v "$REDIS_SERVER_BIN" >/dev/null || fail "REDIS_SERVER_BIN is '$REDIS_SERVER_BIN', which is not a program."
    else
        if ! REDIS_SERVER_BIN=$(find_redis_server); then
            install_redis
            hash -r
            REDIS_SERVER_BIN=$(find_redis_server) || no_redis "The installation did not bring a redis-server."
        fi
    fi
    export REDIS_SERVER_BIN
}

find_redis_server() { command -v redis-server || command -v valkey-server; }

no_redis() {
    fail "$1
A Redis server (6.2 or later) or Valkey is needed; it doesn't have to run, the program is enough. Install it, for
example with one of
    apt-get install redis-server    dnf install valkey    apk add redis    pacman -S valkey    brew install redis
or set REDIS_SERVER_BIN to its path."
}

install_redis() {
    local manager
    for manager in apt-get dnf apk pacman brew; do
        command -v "$manager" >/dev/null && break
        manager=
    done
    [[ -n $manager ]] || no_redis "No redis-server or valkey-server found, nor a package manager this script knows."

    # Homebrew refuses to run as root; all others need it.
    local sudo=()
    if [[ $manager != brew && $(id -u) != 0 ]]; then
        command -v sudo >/dev/null || no_redis "No redis-server or valkey-server found; installing one takes root."
        sudo=(sudo)
        # Without a terminal nobody can type the password.
        [[ -t 0 ]] || sudo=(sudo -n)
    fi
    as_root() { ${sudo[@]+"${sudo[@]}"} "$@"; }

    say "No redis-server or valkey-server found: installing one with $manager (package redis or valkey)."
    case $manager in
        apt-get) install_with_apt ;;
        dnf) as_root dnf install -y redis || as_root dnf install -y valkey ;;
        apk) as_root apk add --no-cache redis || as_root apk add --no-cache valkey ;;
        pacman) as_root pacman -Sy --noconfirm --needed valkey || as_root pacman -Sy --noconfirm --needed redis ;;
        brew) brew install redis ;;
    esac || no_redis "The installation with $manager failed."
}

# Debian's package starts a service on port 6379 and enables it for the next boot. We want neither: the program is all
# that is needed, and nobody asked for a server without a password.
install_with_apt() {
    local policy=/usr/sbin/policy-rc.d own_policy=
    if [[ ! -e $policy ]]; then
        own_policy=yes
        # Also on Ctrl-C in the middle: a policy left behind would stop every service from ever being installed.
        trap 'as_root rm -f /usr/sbin/policy-rc.d' EXIT
        trap 'exit 130' INT
        trap 'exit 143' TERM
        printf '#!/bin/sh\nexit 101\n' | as_root tee "$policy" >/dev/null
        as_root chmod 755 "$policy"
    fi

    local status=0 package=redis-server
    # Stale package lists lead to 404s; but a mirror that fails need not matter.
    as_root apt-get update -q || true
    apt_install redis-server || { package=valkey-server; apt_install valkey-server; } || status=1

    if [[ -n $own_policy ]]; then
        as_root rm -f "$policy"
        trap - EXIT INT TERM
    fi
    if [[ $status == 0 ]] && command -v systemctl >/dev/null; then
        as_root systemctl disable "$package" >/dev/null 2>&1 || true
    elif [[ $status == 0 ]] && command -v update-rc.d >/dev/null; then
        as_root update-rc.d "$package" disable >/dev/null 2>&1 || true
    fi
    return $status
}

apt_install() {
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "$1"
}

# start_private_redis <directory>: a server on a free port that keeps nothing. Sets REDIS_URL (exported) and REDIS_PID;
# the caller stops it, with stop_process.
start_private_redis() {
    local dir=$1 port waited
    for _ in 1 2 3 4 5 6 7 8 9 10; do
        # Below the ports that systems give to outgoing connections.
        port=$((20000 + RANDOM % 12000))
        "$REDIS_SERVER_BIN" --port "$port" --bind 127.0.0.1 --unixsocket "$dir/redis.sock" --dir "$dir" \
            --save '' --appendonly no --daemonize no >"$dir/redis.log" 2>&1 </dev/null &
        REDIS_PID=$!
        for ((waited = 0; waited < 200; waited++)); do
            # The socket proves that it is our server that listens on the port, and not somebody else's.
            if [[ -S $dir/redis.sock ]] && redis_answers "$port"; then
                export REDIS_URL="redis://127.0.0.1:$port"
                return
            fi
            kill -0 "$REDIS_PID" 2>/dev/null || break
            sleep 0.05
        done
        stop_process "$REDIS_PID" || true
        REDIS_PID=
        grep -q 'Address already in use' "$dir/redis.log" || break
    done
    fail "$REDIS_SERVER_BIN did not start:
$(cat "$dir/redis.log")"
}

# PING in plain bash: redis-cli may have another name, or be missing.
redis_answers() {
    local reply
    { exec 3<>"/dev/tcp/127.0.0.1/$1"; } 2>/dev/null || return 1
    printf 'PING\r\n' >&3
    read -r -t 1 reply <&3 || true
    exec 3>&-
    [[ ${reply:-} == +PONG* ]]
}

# stop_process <pid>: SIGTERM, after 5 seconds SIGKILL; waits for the end and returns its status.
stop_process() {
    local pid=$1 waited
    kill -TERM "$pid" 2>/dev/null || true
    for ((waited = 0; waited < 100; waited++)); do
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.05
    done
    kill -KILL "$pid" 2>/dev/null || true
    wait "$pid" 2>/dev/null
}
