# Other engines beside the one of the machine: `./dev up --engine 28 --store containerd`. Sourced by dev.
#
# Each runs in a root made from a Debian suite, with mounts, network and processes of its own. Its network has the same
# addresses as the machine: the registry on 127.0.0.1:443 and moto on 127.0.0.1:5555, by way of Unix sockets. A command
# that runs beside the engine (`in_engine`) sees the engine's network, and its socket as /var/run/docker.sock.
#
#   .dev/engines/roots/28       the files of a Debian system with the engine
#   .dev/engines/programs/28    docker, dockerd and the like from there, for PATH
#   .dev/engines/debs/SUITE     downloaded packages
#   .dev/engines/relays         the sockets of registry and moto
#   .dev/engines/28-overlay2    one engine: its socket and settings, and its data
# shellcheck shell=bash

NUMBER='' STORE='' # what a command asks for
ENGINE=''          # the two together, such as 28-containerd; empty for the machine's own engine
REST=()            # the arguments after these options
ENGINES=$(realpath -m "$STATE")/engines # the data has this path inside, too: runner reads the storage

# --- which ------------------------------------------------------------------------------------------------------------

read_engine_options() { # [--engine NUMBER] [--store STORE] ARGUMENTS...: sets ENGINE, NUMBER, STORE and REST
  NUMBER='' STORE='' ENGINE=''
  while [ $# -gt 0 ]; do
    case $1 in
      --engine) NUMBER=${2:-none} ;;
      --store) STORE=${2:-none} ;;
      *) break ;;
    esac
    shift
    [ $# = 0 ] || shift
  done
  REST=("$@")
  if [ -n "$NUMBER" ]; then
    select_engine "$NUMBER" "${STORE:-overlay2}"
  elif [ -n "$STORE" ]; then
    die 2 "--store goes with --engine NUMBER."
  fi
}

select_engine() { # NUMBER STORE: sets ENGINE
  suite_of "$1" >/dev/null || die 2 "there is no engine $1; the engines are 20, 26 and 28."
  case $2 in
    overlay2) ;;
    containerd) [ "$1" != 20 ] || die 2 "Docker Engine 20.10 has no containerd image store." ;;
    *) die 2 "there is no store $2; the stores are overlay2 and containerd." ;;
  esac
  ENGINE=$1-$2
}

suite_of() { # NUMBER: prints the Debian suite that has this engine
  case $1 in
    20) echo bookworm ;;
    26) echo trixie ;;
    28) echo sid ;;
    *) return 1 ;;
  esac
}

engine_number() { printf '%s\n' "${ENGINE%%-*}"; }
engine_root() { printf '%s\n' "$ENGINES/roots/$(engine_number)"; }
engine_docker() { docker --host "unix://$ENGINES/$ENGINE/socket/docker.sock" "$@"; }
engine_version() { engine_docker version --format '{{.Server.Version}}' 2>/dev/null; }
engine_is_up() { engine_docker version >/dev/null 2>&1; }

# --- roots ------------------------------------------------------------------------------------------------------------

debian_mirror() { # the one that apt uses on this machine
  local mirror
  # shellcheck disable=SC2016 # apt-get replaces it
  mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Label: Debian' 'Created-By: Packages' | head -n 1)
  [ -n "$mirror" ] || die 3 "apt on this machine has no Debian mirror, and the roots of engines are made from one."
  printf '%s\n' "$mirror"
}

debootstrap_root() { # SUITE ROOT
  local packages=docker.io,iptables,ca-certificates,git,iproute2,socat debs=$ENGINES/debs/$1 log=$ENGINES/debootstrap-$1.log
  # Older Debian has the docker command in docker.io, and no buildx.
  [ "$1" = bookworm ] || packages+=,docker-cli,docker-buildx
  rm -rf "$2"
  mkdir -p "$2" "$debs"
  # It ends with this script, and with it the /proc that it mounts. Its exit code may be due to a package that has nothing
  # to do with the engine.
  setpriv --pdeathsig KILL unshare --mount --pid --fork --kill-child --mount-proc \
    debootstrap --variant=minbase --cache-dir="$debs" --include="$packages" "$1" "$2" "$(debian_mirror)" >"$log" 2>&1 9>&- ||
    say "bed: debootstrap of Debian $1 reports errors (log: ${log#"$ROOT"/})"
  chroot "$2" dockerd --version >>"$log" 2>&1
}

make_root() { # once for each number
  local number suite root
  number=$(engine_number)
  suite=$(suite_of "$number")
  root=$(engine_root)
  [ ! -e "$root.complete" ] || return 0
  mkdir -p "$ENGINES/roots"
  say "bed: making a root from Debian $suite for Docker Engine $number"
  if ! debootstrap_root "$suite" "$root"; then
    [ "$suite" = sid ] || die_with_log "$ENGINES/debootstrap-$suite.log" "a root with Docker could not be made from Debian $suite."
    # Sid changes every day, and on some days its packages do not fit each other.
    say "bed: Debian sid cannot be installed today; Docker of Debian trixie takes its place as engine $number"
    suite=trixie
    debootstrap_root $suite "$root" ||
      die_with_log "$ENGINES/debootstrap-$suite.log" "a root with Docker could not be made from Debian $suite either."
  fi
  link_programs "$root" "$ENGINES/programs/$number"
  echo "$suite" >"$root.complete"
}

# They also run outside of their root. runc is the exception: that of sid needs a newer C library, and the machine's will do.
link_programs() { # ROOT DIRECTORY
  local program path plugins=/usr/libexec/docker/cli-plugins
  rm -rf "$2"
  mkdir -p "$2/bin" "$2/libexec/docker/cli-plugins"
  for program in docker dockerd docker-proxy docker-init containerd containerd-shim-runc-v2; do
    path=$(chroot "$1" sh -c "command -v $program") || continue
    ln "$(chroot "$1" readlink -f "$path" | sed "s|^|$1|")" "$2/bin/$program"
  done
  if [ -d "$1$plugins" ]; then ln "$1$plugins"/* "$2/libexec/docker/cli-plugins/"; fi
}

trust_registry_in() { # ROOT
  local root=$1
  install -D -m 644 "$CA" "$root/etc/docker/certs.d/$HOST/ca.crt"
  printf '127.0.0.1 localhost\n%s\n' "$HOSTS_LINE" >"$root/etc/hosts"
}

# --- up ---------------------------------------------------------------------------------------------------------------

start_relays() { # from the sockets that the engines have to the servers of the bed
  start_relay registry 443
  start_relay moto 5555
}

start_relay() { # NAME PORT
  local name=engines/relay-$1 socket=$ENGINES/relays/$1
  ! started "$name" || return 0
  mkdir -p "$ENGINES/relays"
  [ ${#socket} -lt 108 ] || die 3 "the path $socket is too long for a socket; move this checkout to a shorter one."
  start "$name" socat -lp "$name" -t 600 "UNIX-LISTEN:$socket,fork,unlink-early,backlog=256" "TCP:127.0.0.1:$2"
}

engine_settings() {
  case $ENGINE in
    20-*) echo '{ "storage-driver": "overlay2" }' ;;
    *-overlay2) echo '{ "storage-driver": "overlay2", "features": { "containerd-snapshotter": false } }' ;;
    *-containerd) echo '{ "features": { "containerd-snapshotter": true } }' ;;
  esac
}

start_engine_in_root() {
  local home=$ENGINES/$ENGINE tmp=${TMPDIR:-/tmp}
  ! engine_is_up || return 0
  # What is left of one that was killed.
  stop "engines/$ENGINE"
  remove_engine "$ENGINE"
  record engine "$ENGINE"
  mkdir -p "$home/socket" "$home/data"
  engine_settings >"$home/socket/daemon.json"
  # Containers of tests mount the engine's socket and directories of the tests. Some Dockerfiles end an engine, so it is
  # revived: only the tests that run at that moment fail.
  start "engines/$ENGINE" unshare --net --mount --pid --fork --kill-child "$ROOT/.dev.d/enter-root" "$(engine_root)" \
    --bind "$home/socket" /socket --bind "$home/data" "$home/data" --bind "$tmp" "$tmp" \
    --bind "$ENGINES/relays" /relays --relay 443 /relays/registry --relay 5555 /relays/moto --revive -- \
    dockerd --config-file /socket/daemon.json --host unix:///socket/docker.sock --host unix:///run/docker.sock \
    --data-root "$home/data" --cgroup-parent "/$(engine_cgroup "$ENGINE")"
  await 60 "engines/$ENGINE" engine_is_up "see the log above"
}

engine_cgroup() { # ENGINE: prints a name that no other checkout uses
  printf 'runner-bed-%s-%s\n' "$(cksum <<<"$ENGINES" | cut -d ' ' -f 1)" "$1"
}

load_base_image() {
  ! engine_docker image inspect "$BASE_IMAGE" >/dev/null 2>&1 || return 0
  docker save "$BASE_IMAGE" | engine_docker load >"$ENGINES/$ENGINE/load.log" 2>&1 ||
    die_with_log "$ENGINES/$ENGINE/load.log" "the base image could not be loaded into the engine $ENGINE."
}

prepare_root() { # of ENGINE, with relays to the bed's servers; needs the lock
  local wanted=()
  is_root || die 3 "a root of its own for another engine can only be made by root; run this as root."
  have debootstrap || wanted+=(debootstrap)
  have socat || wanted+=(socat)
  install_packages ${wanted[@]+"${wanted[@]}"}
  make_root
  trust_registry_in "$(engine_root)"
  start_relays
}

up_engine() { # ENGINE, beside the bed that is up
  mkdir -p "$ENGINES"
  lock "$ENGINES/lock"
  prepare_root
  start_engine_in_root
  load_base_image
  in_engine curl -fsS --max-time 10 --cacert "$CA" -u "$LOGIN" "https://$HOST/v2/" >/dev/null ||
    die 3 "the registry cannot be reached from the network of the engine $ENGINE; run \`./dev down --engine $(engine_number)\` and try again."
  exec 9>&-
  say "bed: Docker Engine $(engine_version) is up as $ENGINE (unix://$ENGINES/$ENGINE/socket/docker.sock)"
}

# --- use --------------------------------------------------------------------------------------------------------------

in_engine() { # COMMAND...: in the engine's network, with its socket and its docker programs in place of the machine's
  local pid
  pid=$(cat "$ENGINES/$ENGINE.pid")
  nsenter --target "$pid" --net -- \
    unshare --mount "$ROOT/.dev.d/beside-engine" "$ENGINES/$ENGINE" "$ENGINES/programs/$(engine_number)" "$@"
}

cmd_exec() { # --engine NUMBER [--store STORE] COMMAND...
  read_engine_options "$@"
  [ -n "$NUMBER" ] || die 2 "name the engine: ./dev exec --engine NUMBER [--store STORE] COMMAND..."
  [ ${#REST[@]} -gt 0 ] || REST=("${SHELL:-bash}")
  engine_is_up || die 3 "the engine $ENGINE is not up; run \`./dev up --engine $NUMBER${STORE:+ --store $STORE}\`."
  in_bed "${REST[@]}"
}

engine_facts() { # prints what docs/engines.md says about versions
  local component
  printf 'Docker Engine\t%s\n' "$(engine_docker version --format '{{.Server.Version}}' | sed 's/+.*//')"
  printf 'Image store\t%s\n' "${ENGINE#*-}"
  printf 'Debian suite\t%s\n' "$(cat "$(engine_root).complete")"
  printf 'API\t%s\n' "$(engine_docker version --format '{{.Server.MinAPIVersion}} to {{.Server.APIVersion}}')"
  for component in containerd runc; do
    engine_docker version --format '{{json .Server.Components}}' |
      jq -r --arg name $component '.[] | select(.Name == $name) | "\(.Name)\t\(.Version | sub("[~+].*"; ""))"'
  done
  printf 'Storage driver\t%s\n' "$(engine_docker info --format '{{.Driver}}')"
}

engine_ends() { grep -c '^enter-root: .* is started again$' "$ENGINES/$ENGINE.log" || true; } # how often, since it was started

# --- down -------------------------------------------------------------------------------------------------------------

remove_engine() { # ENGINE: its data, and the cgroups of containers that ended with it
  local groups
  rm -rf "${ENGINES:?}/$1" "$ENGINES/$1.log"
  mapfile -t groups < <(find /sys/fs/cgroup -depth -type d -path "*/$(engine_cgroup "$1")*" 2>/dev/null)
  [ ${#groups[@]} = 0 ] || rmdir "${groups[@]}" 2>/dev/null || true
}

down_engines() { # NUMBER [STORE]: ends these engines and leaves the rest of the bed as it is; their root stays for the next time
  local kind value
  if ! grep -q "^engine	$1-${2:-}" "$CHANGED" 2>/dev/null; then
    say "down: this checkout has not started Docker Engine $1${2:+ with the store $2}"
    return
  fi
  lock "$ENGINES/lock"
  while IFS=$'\t' read -r kind value; do
    if [ "$kind" != engine ] || [[ $value != "$1-${2:-}"* ]]; then continue; fi
    stop "engines/$value"
    remove_engine "$value"
    forget "process	engines/$value"
    forget "engine	$value"
  done < <(sort -u "$CHANGED")
  if ! grep -q '^engine	' "$CHANGED"; then stop_relays; fi
  exec 9>&-
  say "down: Docker Engine $1${2:+ with the store $2} is down"
}

stop_relays() {
  local name
  for name in relay-registry relay-moto; do
    stop "engines/$name"
    forget "process	engines/$name"
  done
}

forget() ( # LINE of .dev/changed, whose change has been undone
  flock 8
  grep -vxF -- "$1" "$CHANGED" >"$CHANGED.new" || true
  mv "$CHANGED.new" "$CHANGED"
) 8>"$STATE/lock"
