#!/usr/bin/env bash
# One entry point to every job: makes the environment on first use, then calls the real spark-submit.
#
#   ./spark-submit.sh JOB [options]      run jobs/JOB.py            (./spark-submit.sh help lists them)
#   ./spark-submit.sh test [pytest args] run the tests
#   ./spark-submit.sh check              lint, types, imports
#   ./spark-submit.sh bench [--size S]   time the suite against its peers
#   ./spark-submit.sh chaos [--runs N]   break runs on purpose, run them again, look for what is lost or doubled
#   ./spark-submit.sh doctor             what is missing on this machine, and what to type
#   ./spark-submit.sh package            build dist/sensor_lakehouse.zip for --py-files
#
# Read before the job:  --on MASTER   local (default), local[N], or a cluster's master URL such as yarn
# Environment:          LAKEHOUSE_STACK  default | next       which pinned Spark and Delta pair
#                       LAKEHOUSE_CACHE  where JARs and logs are kept, ~/.cache/sensor-lakehouse
#                       LAKEHOUSE_PYTHON the Python that makes .venv, python3 on PATH
set -euo pipefail

fail() { # fail EXIT_CODE WHAT WHY NEXT
  printf 'LH%s00 %s\n  why:  %s\n  next: %s\n' "$1" "$2" "$3" "$4" >&2
  exit "$1"
}

# The folder of this script, symlinks followed (readlink -f is not on every macOS).
source=${BASH_SOURCE[0]}
while [ -L "$source" ]; do
  folder=$(cd -P "$(dirname "$source")" && pwd)
  source=$(readlink "$source")
  case $source in /*) ;; *) source=$folder/$source ;; esac
done
HOME_DIR=$(cd -P "$(dirname "$source")" && pwd)

STACK=${LAKEHOUSE_STACK:-default}
CACHE=${LAKEHOUSE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/sensor-lakehouse}
case $STACK in
  default) VENV=$HOME_DIR/.venv PINS=$HOME_DIR JAR_LIST=$HOME_DIR/conf/jars.txt ;;
  next) VENV=$HOME_DIR/.venv-next PINS=$HOME_DIR/conf/next JAR_LIST=$HOME_DIR/conf/next/jars.txt ;;
  *) fail 2 "unknown stack '$STACK'" "LAKEHOUSE_STACK is 'default' or 'next'" "unset LAKEHOUSE_STACK" ;;
esac
PYTHON=$VENV/bin/python

digest() { # the SHA-256 of standard input
  if command -v sha256sum >/dev/null; then sha256sum; else shasum -a 256; fi | cut -d' ' -f1
}

step() { printf '%s\n' "$*" >&2; }

install_python() { # install_python LOCK...: a virtual environment holding exactly what the locks pin
  local stamp wanted base log
  stamp=$VENV/.installed-$(basename "$1")
  wanted=$(cat "$@" | digest)
  [ -x "$PYTHON" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ] && return
  base=${LAKEHOUSE_PYTHON:-python3}
  command -v "$base" >/dev/null || fail 3 "no Python found as '$base'" "the suite needs Python 3.11 or newer" \
    "install Python 3.11, or set LAKEHOUSE_PYTHON=/path/to/python3.11"
  "$base" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' ||
    fail 3 "'$base' is $("$base" -V)" "the suite runs on Python 3.11 to 3.13" "set LAKEHOUSE_PYTHON=/path/to/python3.11"
  step "setting up ${VENV##*/} from $(basename "$1") (once, a minute or two)"
  mkdir -p "$CACHE"
  log=$CACHE/setup.log
  local arguments=(install --quiet --require-hashes)
  for lock in "$@"; do arguments+=(-r "$lock"); done
  if command -v uv >/dev/null; then
    { { [ -x "$PYTHON" ] || uv venv --quiet --python "$base" "$VENV"; } &&
      VIRTUAL_ENV=$VENV uv pip "${arguments[@]}"; } >"$log" 2>&1
  else
    { { [ -x "$PYTHON" ] || "$base" -m venv "$VENV"; } &&
      "$PYTHON" -m pip --disable-pip-version-check "${arguments[@]}"; } >"$log" 2>&1
  fi || { tail -n 20 "$log" >&2; fail 3 "the Python packages could not be installed" \
    "the last lines of $log are above" "check the connection to your package index, then run the same command again"; }
  printf '%s\n' "$wanted" >"$stamp"
}

resolve_jars() { # the JARs of jars.txt, fetched once by Spark's own Ivy and checked against their digests
  local wanted work
  wanted=$(digest <"$JAR_LIST")
  JARS_DIR=$CACHE/jars/${wanted:0:16}
  [ -d "$JARS_DIR" ] && return
  step "fetching the JARs of ${JAR_LIST#"$HOME_DIR"/} (once, about 20 MB)"
  mkdir -p "$CACHE/jars"
  work=$(mktemp -d "$CACHE/jars/.fetch-XXXXXX")
  "$PYTHON" "$HOME_DIR/jobs/lake/jars.py" "$JAR_LIST" "$work" >"$work/fetch.log" 2>&1 || {
    grep -v '^\s*$' "$work/fetch.log" | tail -n 8 >&2
    fail 3 "the JARs could not be fetched" "the last lines of $work/fetch.log are above" \
      "check the connection to your Maven repository, then run the same command again"
  }
  # A second run may have been quicker: its folder holds the same bytes.
  mv "$work/jars" "$JARS_DIR" 2>/dev/null || [ -d "$JARS_DIR" ]
  rm -rf "$work"
}

check_java() {
  local java version
  java=${JAVA_HOME:+$JAVA_HOME/bin/}java
  command -v "$java" >/dev/null || fail 3 "no Java found" "Spark 4 runs on Java 17 or 21" \
    "install a JDK 17 (Debian: apt-get install openjdk-17-jre-headless) or set JAVA_HOME"
  version=$("$java" -version 2>&1 | sed -n 's/.*version "\([0-9]*\).*/\1/p' | head -n 1)
  case $version in
    17 | 21) ;;
    *) fail 3 "Java ${version:-?} found" "Spark 4 runs on Java 17 or 21" "install a JDK 17 and set JAVA_HOME to it" ;;
  esac
}

MASTER=local
if [ "${1:-}" = --on ]; then
  [ $# -ge 2 ] || fail 2 "--on needs a value" "it names where Spark runs" "./spark-submit.sh --on local silver --dataset all"
  MASTER=$2
  shift 2
fi
JOB=${1:-help}
[ $# -gt 0 ] && shift

export PYTHONPATH=$HOME_DIR${PYTHONPATH:+:$PYTHONPATH}
case $MASTER in
  local*) export PYSPARK_PYTHON=$PYTHON ;;
  *) export PYSPARK_PYTHON=${PYSPARK_PYTHON:-python3} ;; # a path of the cluster's machines, not of this one
esac
export PYSPARK_DRIVER_PYTHON=$PYTHON TZ=UTC
export LAKEHOUSE_HOME=$HOME_DIR LAKEHOUSE_CACHE=$CACHE LAKEHOUSE_STACK=$STACK
unset SPARK_CONF_DIR
case $MASTER in local*) export SPARK_LOCAL_IP=${SPARK_LOCAL_IP:-127.0.0.1} ;; esac # nobody else need reach it

case $JOB in
  help | -h | --help)
    sed -n '2,/^set /{/^#/s/^# \{0,1\}//p;}' "${BASH_SOURCE[0]}"
    printf '\nJobs:\n'
    grep -l __main__ "$HOME_DIR"/jobs/[a-z]*.py | sort | while IFS= read -r file; do
      printf '  %-10s %s\n' "$(basename "$file" .py)" "$(sed -n '1s/^"""\(.*\)/\1/p' "$file" | sed 's/"""$//')"
    done
    exit 0
    ;;
  bench) # a virtual environment of its own: the peers bring much, one of them a module named tests
    VENV=$HOME_DIR/.venv-bench PYTHON=$HOME_DIR/.venv-bench/bin/python
    export PYSPARK_PYTHON=$PYTHON PYSPARK_DRIVER_PYTHON=$PYTHON
    install_python "$HOME_DIR/requirements-bench.lock"
    check_java
    resolve_jars
    export LAKEHOUSE_JARS=$JARS_DIR
    cd "$HOME_DIR" && exec "$PYTHON" -m bench "$@"
    ;;
  test | check | chaos)
    install_python "$PINS/requirements-dev.lock"
    digest <"$PINS/requirements.lock" >"$VENV/.installed-requirements.lock" # the other lock is all of it, and more
    [ "$JOB" = check ] && { cd "$HOME_DIR" && exec "$PYTHON" -m tests.check "$@"; }
    check_java
    resolve_jars
    export LAKEHOUSE_JARS=$JARS_DIR
    [ "$JOB" = chaos ] && { cd "$HOME_DIR" && exec "$PYTHON" -m chaos "$@"; }
    cd "$HOME_DIR" && exec "$PYTHON" -m pytest "$@"
    ;;
esac

# A module without a command line, such as the catalogue, is no job.
{ [[ $JOB =~ ^[a-z]+$ ]] && grep -qs __main__ "$HOME_DIR/jobs/$JOB.py"; } ||
  fail 2 "there is no job '$JOB'" "no module of jobs/ has this name and a command line" "./spark-submit.sh help"
install_python "$PINS/requirements.lock"
case $JOB in doctor | status | report | package) # these need no Spark, and answer at once without it
  [ "$JOB" = doctor ] || exec "$PYTHON" "$HOME_DIR/jobs/$JOB.py" "$@" ;;
esac
[ "$JOB" = doctor ] || check_java
resolve_jars
export LAKEHOUSE_JARS=$JARS_DIR
[ "$JOB" = doctor ] && exec "$PYTHON" "$HOME_DIR/jobs/doctor.py" "$@"

mkdir -p "$CACHE/logs"
export LAKEHOUSE_LOG=$CACHE/logs/$JOB-$(date -u +%Y%m%dT%H%M%S)-$$.log
SUBMIT=()
while IFS= read -r argument; do SUBMIT+=("$argument"); done < <("$PYTHON" -m jobs.lake.submit "$MASTER" "$@")
[ ${#SUBMIT[@]} -gt 0 ] || exit 2

# spark-submit mixes a Python job's two streams into one and adds the JVM's own talk. So the job is handed the
# real ones to reopen (jobs/lake/console.py), and what the JVM prints goes to the log with Spark's.
# A file is fed through cat, because to reopen it would give it a second position to write at. Ctrl-C reaches cat as
# well, which has to stay for what the job says of it.
pumps=()
exec 3>&1 4>&2
if [ -f "/proc/$$/fd/3" ]; then exec 3> >(trap '' INT TERM; exec cat); pumps+=($!); fi
if [ -f "/proc/$$/fd/4" ]; then exec 4> >(trap '' INT TERM; exec cat >&2); pumps+=($!); fi
if [ -e "/proc/$$/fd/3" ]; then
  export LAKEHOUSE_STDOUT=/proc/$$/fd/3 LAKEHOUSE_STDERR=/proc/$$/fd/4
  "${SUBMIT[@]}" "$HOME_DIR/jobs/$JOB.py" "$@" >>"$LAKEHOUSE_LOG" 2>&1 3>&- 4>&- &
else
  "${SUBMIT[@]}" "$HOME_DIR/jobs/$JOB.py" "$@" 2>>"$LAKEHOUSE_LOG" &
fi
child=$!
stopped=
stop() { # stop SIGNAL EXIT_CODE: the job's Python ends in good order; until it is there, spark-submit is to end
  local job
  job=$(sed -n 's/^lakehouse: job started, process \([0-9]*\)$/\1/p' "$LAKEHOUSE_LOG" | head -n 1)
  stopped=$2
  if [ -n "$job" ]; then kill -"$1" "$job"; else kill -TERM "$child"; fi 2>/dev/null
}
trap 'stop TERM 143' TERM
trap 'stop INT 130' INT
code=0
wait "$child" || code=$?
while kill -0 "$child" 2>/dev/null; do wait "$child" || code=$?; done
exec 3>&- 4>&-
[ ${#pumps[@]} -eq 0 ] || wait "${pumps[@]}" || true
if [ -n "$stopped" ] && ! grep -q 'lakehouse: job started' "$LAKEHOUSE_LOG"; then
  step "stopped before Spark was up: nothing was begun"
  exit "$stopped"
fi
if [ "$code" -ne 0 ] && ! grep -q 'lakehouse: job started' "$LAKEHOUSE_LOG"; then
  tail -n 15 "$LAKEHOUSE_LOG" >&2
  fail 3 "Spark could not be started" "the last lines of $LAKEHOUSE_LOG are above" "./spark-submit.sh doctor"
fi
exit "$code"
