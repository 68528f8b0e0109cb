# The test bed: `./dev up` and `./dev down`. Sourced by dev.
#
# The bed consists of real parts: a Docker Engine, a registry that looks like Amazon ECR, and an AWS API server (moto).
# A part that already answers is used as it is. Every change to the machine is written to .dev/changed before it is made, and
# `./dev down` undoes these changes in reverse order.
# shellcheck shell=bash

STATE=$ROOT/.dev
CHANGED=$STATE/changed
HOST=123456789012.dkr.ecr.us-east-1.amazonaws.com
LOGIN=AWS:123456789012-auth-token # the token that moto's GetAuthorizationToken returns
CA=/etc/docker/certs.d/$HOST/ca.crt
HOSTS_LINE="127.0.0.1 $HOST # test bed of codebuild-runner"
MOTO=http://127.0.0.1:5555
BASE_IMAGE=busybox:1.36
DOCKER_SOCKET=/var/run/docker.sock
PATH=$PATH:/usr/sbin:/sbin # the servers are there, and an ordinary user's PATH may lack them
export DOCKER_HOST=unix://$DOCKER_SOCKET # rather than the engine of the user's docker context
export NO_PROXY="127.0.0.1,localhost,$HOST${NO_PROXY:+,$NO_PROXY}"
export no_proxy=$NO_PROXY

# Tests must not see a real AWS account, and must not reach one.
BED_ENV=(
  AWS_ENDPOINT_URL="$MOTO" AWS_REGION=us-east-1 AWS_ACCESS_KEY_ID=test AWS_SECRET_ACCESS_KEY=test
  AWS_CONFIG_FILE=/dev/null AWS_SHARED_CREDENTIALS_FILE=/dev/null AWS_EC2_METADATA_DISABLED=true
  RUNNER_TEST_REGISTRY="$HOST" RUNNER_TEST_CA="$CA" RUNNER_TEST_AWS="$MOTO"
)
FOREIGN_ENV=(-u DOCKER_HOST -u AWS_PROFILE -u AWS_DEFAULT_REGION -u AWS_SESSION_TOKEN -u AWS_CA_BUNDLE)
in_bed() { # [NAME=VALUE]... COMMAND...: beside the engine ENGINE, or with the machine's own
  ${ENGINE:+in_engine} env "${FOREIGN_ENV[@]}" "${BED_ENV[@]}" RUNNER_TEST_PYTHON="$(python_with_jsonschema)" "$@"
}

is_root() { [ "$(id -u)" = 0 ]; }
lock() { # FILE: until descriptor 9 is closed
  exec 9>"$1"
  flock -w 1200 9 || die 3 "another ./dev has held ${1#"$ROOT"/} for twenty minutes; check what it is waiting for."
}
record() { printf '%s\t%s\n' "$1" "$2" >>"$CHANGED"; } # KIND VALUE; always before the change itself

# --- processes -------------------------------------------------------------------------------------------------------

start() { # NAME COMMAND...: in a new session, so that it outlives this script and gets no signal of the terminal
  local name=$1
  shift
  say "bed: starting $name (log: .dev/$name.log)"
  record process "$name"
  # It notes its own id, so that it is found even if this script is killed at this moment.
  # shellcheck disable=SC2016 # for the inner shell
  setsid bash -c 'echo $$ >"$0" && exec "$@"' "$STATE/$name.pid" "$@" </dev/null >"$STATE/$name.log" 2>&1 9>&- &
  echo $! >"$STATE/$name.pid"
}

started() { # NAME: does the process of our pid file still run, and is it not a later one with the same id?
  local pid
  pid=$(cat "$STATE/$1.pid" 2>/dev/null) || return 1
  { tr '\0' ' ' <"/proc/$pid/cmdline"; } 2>/dev/null | grep -q -- "$1"
}

await() { # SECONDS NAME CHECK ADVICE: until CHECK succeeds; fails if the process ends
  local end=$((SECONDS + $1))
  until "$3"; do
    started "$2" || die_with_log "$STATE/$2.log" "$2 ended; $4."
    [ "$SECONDS" -lt "$end" ] || die_with_log "$STATE/$2.log" "$2 did not answer within $1 s; $4."
    sleep 0.2
  done
}

addressee() { # PID: prints the process that a signal is meant for; `unshare --fork` passes none on to its child
  case $(cat "/proc/$1/comm" 2>/dev/null) in
    unshare) cat "/proc/$1/task/$1/children" ;;
    *) printf '%s\n' "$1" ;;
  esac
}

stop() { # NAME
  local pid i
  if started "$1"; then
    say "down: ending $1"
    pid=$(cat "$STATE/$1.pid")
    kill -TERM "$(addressee "$pid")" 2>/dev/null || true
    for ((i = 0; i < 75; i++)); do
      started "$1" || break
      sleep 0.2
    done
    ! started "$1" || kill -KILL "$pid" 2>/dev/null || true
  fi
  rm -f "$STATE/$1.pid"
}

# --- the state of the machine ----------------------------------------------------------------------------------------

engine_answers() { curl -fsS --max-time 5 --unix-socket "$DOCKER_SOCKET" http://docker/_ping >/dev/null 2>&1; }
registry_answers() { curl -fsS --max-time 5 --cacert "$CA" -u "$LOGIN" "https://$HOST/v2/" >/dev/null 2>&1; }
moto_answers() { curl -fsS --max-time 5 "$MOTO/moto-api/" >/dev/null 2>&1; }
base_image_is_there() { docker image inspect "$BASE_IMAGE" >/dev/null 2>&1; }
port_is_taken() { (: <"/dev/tcp/127.0.0.1/$1") 2>/dev/null; }
host_is_known() { getent hosts "$HOST" | grep -q '^127\.0\.0\.1 '; }
python_has_jsonschema() { "$1" -c "import jsonschema" 2>/dev/null; }
python_with_jsonschema() { # prints its path
  local python
  for python in python3 "$STATE/venv/bin/python"; do
    if have "$python" && python_has_jsonschema "$python"; then
      command -v "$python"
      return
    fi
  done
  return 1
}
moto_is_installed() {
  have moto_server && python3 -c '
import importlib.metadata, sys
sys.exit(tuple(map(int, importlib.metadata.version("moto").split(".")[:2])) < (5, 2))' 2>/dev/null
}

missing_packages() { # one package per missing command
  local pair
  engine_answers || have dockerd || echo docker.io
  for pair in git:git gcc:gcc docker:docker.io docker-registry:docker-registry skopeo:skopeo \
    htpasswd:apache2-utils openssl:openssl curl:curl jq:jq strace:strace ip:iproute2 sshd:openssh-server; do
    have "${pair%%:*}" || echo "${pair#*:}"
  done
  [ -e /usr/include/stdlib.h ] || echo libc6-dev
  [ -e /etc/ssl/certs/ca-certificates.crt ] || echo ca-certificates
  { moto_is_installed && python_with_jsonschema >/dev/null; } || python3 -c 'import ensurepip' 2>/dev/null || echo python3-venv
}

require_root_or_nothing_to_do() { # names everything that needs root, before the first change
  local wanted=()
  is_root && return
  [ -z "$(missing_packages)" ] || wanted+=("the packages $(missing_packages | sort -u | paste -sd' ')")
  engine_answers || wanted+=("a Docker Engine that this user may use on $DOCKER_SOCKET")
  registry_answers || wanted+=("the registry https://$HOST")
  [ ${#wanted[@]} = 0 ] || die 3 "the test bed lacks $(printf '%s, ' "${wanted[@]}" | sed 's/, $//'); run \`./dev up\` as root."
}

# --- up --------------------------------------------------------------------------------------------------------------

install_packages() { # PACKAGE...
  local wanted=("$@") before log=$STATE/apt.log guard=/usr/sbin/policy-rc.d guarded=
  [ ${#wanted[@]} -gt 0 ] || return 0
  if ! is_root || ! have apt-get; then
    die 3 "these packages are missing: ${wanted[*]}; install them, or run this as root on Debian."
  fi
  mkdir -p "$STATE"
  say "bed: installing packages: ${wanted[*]}"
  export DEBIAN_FRONTEND=noninteractive
  apt-get update >"$log" 2>&1 || die_with_log "$log" "apt-get update failed; check this machine's package sources."
  # Newer Debian has the docker command in a separate package, which docker.io only recommends.
  if [[ " ${wanted[*]} " = *" docker.io "* ]] && ! have docker && apt-cache show docker-cli >/dev/null 2>&1; then wanted+=(docker-cli); fi
  # Packages start their services: the registry would take port 5000. This file is how Debian prevents that.
  if [ ! -e "$guard" ]; then
    printf '#!/bin/sh\nexit 101\n' >"$guard"
    chmod 755 "$guard"
    guarded=yes
  fi
  before=$(installed_packages)
  if ! apt-get install -y --no-install-recommends "${wanted[@]}" >>"$log" 2>&1; then guarded+=failed; fi
  # Dependencies are recorded, too, so that `down` removes them.
  comm -13 <(echo "$before") <(installed_packages) | while read -r name; do record package "$name"; done
  case $guarded in yes*) rm -f "$guard" ;; esac
  case $guarded in *failed) die_with_log "$log" "the packages could not be installed; fix the errors above and run this again." ;; esac
  # On a machine with systemd these would start at the next boot.
  if [ -d /run/systemd/system ]; then systemctl disable docker-registry docker.socket docker ssh >>"$log" 2>&1 || true; fi
}
installed_packages() { dpkg-query -W -f '${db:Status-Abbrev} ${Package}\n' | sed -n 's/^ii  *//p' | sort -u; }

start_engine() {
  [ ! -S "$DOCKER_SOCKET" ] || ! engine_answers || return 0
  start dockerd dockerd --host "unix://$DOCKER_SOCKET"
  await 30 dockerd engine_answers "a Docker Engine needs a machine with cgroups and CAP_SYS_ADMIN (a privileged container will do)"
}

add_host() {
  host_is_known && return
  say "bed: adding to /etc/hosts: $HOSTS_LINE"
  record hosts "$HOSTS_LINE"
  printf '%s\n' "$HOSTS_LINE" >>/etc/hosts
}

make_certificates() { # an authority and a certificate signed by it: TLS libraries reject one that is both
  local dir=$STATE/certs
  [ ! -s "$dir/host.crt" ] || return 0
  mkdir -p "$dir"
  (
    umask 077
    cd "$dir"
    key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 3650)
    openssl req -x509 "${key[@]}" -keyout ca.key -out ca.crt -subj '/CN=codebuild-runner test bed' \
      -addext 'basicConstraints=critical,CA:TRUE' -addext 'keyUsage=critical,keyCertSign'
    openssl req "${key[@]}" -keyout host.key -out host.csr -subj '/CN=registry'
    openssl x509 -req -in host.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days 800 -out host.crt \
      -extfile <(printf 'subjectAltName=DNS:%s\nbasicConstraints=CA:FALSE\nextendedKeyUsage=serverAuth\n' "$HOST")
  ) >"$STATE/certs.log" 2>&1 || die_with_log "$STATE/certs.log" "openssl could not make the registry's certificate."
}

trust_authority() { # the engine reads this folder at every request, so it need not be restarted
  cmp -s "$STATE/certs/ca.crt" "$CA" && return
  say "bed: writing $CA"
  if [ -e "$CA" ] && [ ! -e "$STATE/ca.crt.before" ]; then cp "$CA" "$STATE/ca.crt.before"; fi
  record authority "$CA"
  mkdir -p "$(dirname "$CA")"
  install -m 644 "$STATE/certs/ca.crt" "$CA"
}

start_registry() {
  add_host
  registry_answers && return
  ! port_is_taken 443 || die 3 "another program than the bed's registry uses port 443; end it and run this again."
  make_certificates
  trust_authority
  htpasswd -nbB "${LOGIN%%:*}" "${LOGIN#*:}" 2>/dev/null | sed '/^$/d' >"$STATE/htpasswd"
  cat >"$STATE/registry.yml" <<YML
version: 0.1
log: { level: warn, accesslog: { disabled: true } }
storage: { filesystem: { rootdirectory: "$STATE/registry" }, delete: { enabled: true } }
auth: { htpasswd: { realm: ecr, path: "$STATE/htpasswd" } }
http: { addr: "127.0.0.1:443", secret: test-bed, tls: { certificate: "$STATE/certs/host.crt", key: "$STATE/certs/host.key" } }
YML
  start docker-registry docker-registry serve "$STATE/registry.yml"
  await 15 docker-registry registry_answers "see the log above"
}

install_python() { # REQUIREMENT: into the virtual environment of the bed
  say "bed: installing $1 into .dev/venv (log: .dev/pip.log)"
  {
    "$STATE/venv/bin/pip" --version 2>/dev/null || python3 -m venv --clear "$STATE/venv"
    "$STATE/venv/bin/pip" install --quiet "$1"
  } >"$STATE/pip.log" 2>&1 || die_with_log "$STATE/pip.log" "$1 could not be installed; check that pip can reach its index."
}

start_moto() {
  local server=moto_server
  moto_answers && return
  ! port_is_taken 5555 || die 3 "another program than moto uses port 5555; end it and run this again."
  if ! moto_is_installed; then
    server=$STATE/venv/bin/moto_server
    [ -x "$server" ] || install_python 'moto[server]~=5.2'
  fi
  start moto_server "$server" -H 127.0.0.1 -p 5555
  await 60 moto_server moto_answers "see the log above"
}

static_busybox() { # prints its path; the Debian package is only unpacked, because it would replace the ordinary busybox
  local dir=$STATE/busybox
  if have busybox && ! ldd "$(command -v busybox)" >/dev/null 2>&1; then
    command -v busybox
    return
  fi
  if [ ! -x "$dir/bin/busybox" ] && [ ! -x "$dir/usr/bin/busybox" ]; then
    mkdir -p "$dir"
    (cd "$dir" && { apt-get download busybox-static || { apt-get update && apt-get download busybox-static; }; } &&
      dpkg-deb -x busybox-static_*.deb .) >"$STATE/busybox.log" 2>&1 ||
      die_with_log "$STATE/busybox.log" "could not download a static busybox; run \`docker pull $BASE_IMAGE\` instead."
  fi
  find "$dir" -name busybox -type f -path '*bin/*'
}

make_base_image() { # with the layout of the image on Docker Hub, so that the sample builds with either
  local dir=$STATE/rootfs busybox applet
  base_image_is_there && return
  busybox=$(static_busybox)
  say "bed: making the image $BASE_IMAGE from ${busybox#"$ROOT"/}"
  rm -rf "$dir"
  mkdir -p "$dir"/{bin,etc,root,tmp,var/spool/mail,home,usr/bin,usr/sbin,sbin}
  chmod 1777 "$dir/tmp"
  install -m 755 "$busybox" "$dir/bin/busybox"
  "$busybox" --list | while read -r applet; do [ -e "$dir/bin/$applet" ] || ln -s busybox "$dir/bin/$applet"; done
  printf 'root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/home:/bin/false\n' >"$dir/etc/passwd"
  printf 'root:x:0:\nnobody:x:65534:\n' >"$dir/etc/group"
  record image "$BASE_IMAGE"
  tar -C "$dir" --sort=name --owner=0 --group=0 --numeric-owner --mtime=@0 -c . |
    docker import --change 'ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin' \
      --change 'CMD ["sh"]' - "$BASE_IMAGE" >"$STATE/base-image.log" 2>&1 ||
    die_with_log "$STATE/base-image.log" "the base image could not be imported; see the engine's message above."
  rm -rf "$dir"
}

cmd_up() { # [--engine NUMBER [--store STORE]]
  read_engine_options "$@"
  [ ${#REST[@]} = 0 ] || die 2 "\`./dev up\` does not know ${REST[0]}."
  start_bed
}

start_bed() { # and the engine ENGINE, unless it is empty
  local wanted
  require_root_or_nothing_to_do
  mkdir -p "$STATE"
  lock "$STATE/lock"
  mapfile -t wanted < <(missing_packages | sort -u)
  install_packages "${wanted[@]}"
  start_engine
  start_registry
  start_moto
  python_with_jsonschema >/dev/null || install_python 'jsonschema~=4.0'
  make_base_image
  exec 9>&-
  say "bed: up (registry https://$HOST, AWS API $MOTO, engine $DOCKER_SOCKET)"
  [ -z "$ENGINE" ] || up_engine
}

# --- down ------------------------------------------------------------------------------------------------------------

undo() { # KIND VALUE
  case $1 in
    process) stop "$2" ;;
    engine) remove_engine "$2" ;;
    image)
      say "down: removing the image $2"
      docker image rm "$2" >/dev/null 2>&1 || true
      ;;
    hosts) # written in place: in a container the file is a mount and cannot be replaced
      say "down: removing from /etc/hosts: $2"
      grep -vxF -- "$2" /etc/hosts >"$STATE/hosts" || true
      cat "$STATE/hosts" >/etc/hosts
      ;;
    authority)
      if [ -e "$STATE/ca.crt.before" ]; then
        say "down: restoring the earlier $2"
        cp "$STATE/ca.crt.before" "$2"
      else
        say "down: removing $2"
        rm -f "$2"
        rmdir -p "$(dirname "$2")" 2>/dev/null || true
      fi
      ;;
  esac
}

remove_packages() { # unless other packages need them by now, which apt-get reports
  local ours needed log=$STATE/apt.log
  mapfile -t ours < <(sed -n 's/^package\t//p' "$CHANGED" | sort -u)
  [ ${#ours[@]} -gt 0 ] || return 0
  say "down: removing the packages that ./dev installed: ${ours[*]}"
  needed=$(apt-get remove --purge -s "${ours[@]}" 2>"$log" | sed -n 's/^\(Remv\|Purg\) \([^ ]*\).*/\2/p' | sort -u |
    comm -23 - <(printf '%s\n' "${ours[@]}")) || true
  if [ -n "$needed" ]; then
    say "down: kept them, because other packages need them: $(paste -sd' ' <<<"$needed")"
  else
    DEBIAN_FRONTEND=noninteractive apt-get remove --purge -y "${ours[@]}" >"$log" 2>&1 ||
      die_with_log "$log" "the packages could not be removed; fix the errors above and run \`./dev down\` again."
  fi
}

cmd_down() { # [--engine NUMBER [--store STORE]] or [--keep-packages]
  local kind value
  read_engine_options "$@"
  if [ -n "$NUMBER" ]; then
    down_engines "$NUMBER" "$STORE"
    return
  fi
  case ${REST[*]} in '' | --keep-packages) ;; *) die 2 "\`./dev down\` does not know ${REST[*]}." ;; esac
  [ -s "$CHANGED" ] || { rm -rf "$STATE" && say "down: this checkout has started nothing" && return; }
  while IFS=$'\t' read -r kind value; do undo "$kind" "$value" </dev/null; done < <(tac "$CHANGED")
  if [ "${REST[*]}" = --keep-packages ]; then # for the gate: ends all processes, and the next run need not download again
    sed -i '/^package\t/!d' "$CHANGED"
    find "$STATE" -mindepth 1 -maxdepth 1 ! -name changed ! -name venv ! -name busybox ! -name engines -exec rm -rf {} +
    if [ -d "$ENGINES" ]; then
      find "$ENGINES" -mindepth 1 -maxdepth 1 ! -name roots ! -name programs ! -name debs -exec rm -rf {} +
    fi
    return
  fi
  remove_packages
  rm -rf "$STATE"
  say "down: done"
}

