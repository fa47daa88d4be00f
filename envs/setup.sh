#!/usr/bin/env bash
# Create .venv from requirements.lock, and install missing system programs. `make` runs this first.
#
# Needs:     Python 3.11, 3.12 or 3.13 (PYTHON=… selects one), and a package index that pip can reach.
# Creates:   .venv with exactly the packages of the lock file, each checked against its hash; in its bin, lmplz and
#            build_binary, built from the source of KenLM that envs/kenlm.txt pins.
# Repeated:  does nothing, in a fraction of a second, while .venv is complete and matches these files.
# Arguments: browser, slurm, gradio. For the tests: also install Chromium; Slurm, of which they start a cluster; and
#            gradio, in .venv/gradio, for the page of a model.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

extra=" $* "

venv=.venv
lock=requirements.lock
stamp=$venv/speechmill.stamp # written last: a .venv without it is incomplete
kenlm=envs/kenlm.txt
gradio=envs/gradio.txt
gradio_stamp=$venv/gradio.stamp # a copy of what .venv/gradio was installed from, written last
kenlm_stamp=$venv/kenlm.stamp # a copy of what lmplz and build_binary were built from, written last

say() { printf 'setup: %s\n' "$*"; }
fail() { # fail "what is wrong" ["a further line"…]
    printf 'setup: error: %s\n' "$1" >&2
    if [ $# -gt 1 ]; then printf '  %s\n' "${@:2}" >&2; fi
    exit 1
}
as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo -n "$@"; fi; }

# ---------------------------------------------------------------- system programs, checked by running them

missing=()  # descriptions of the missing programs
packages=() # the Debian packages that contain them

want() { # want "description" "Debian packages" check…
    local what=$1 debian=$2
    shift 2
    "$@" >/dev/null 2>&1 && return
    missing+=("$what")
    read -ra debian <<<"$debian"
    packages+=("${debian[@]}")
}
# The output is read completely before it is searched: under pipefail, `grep -q` would end the writer with SIGPIPE.
sox_reads_mp3() { grep -q '^AUDIO FILE FORMATS:.* mp3' <<<"$(sox --help)"; }
ffmpeg_has_libraries() { grep -q -e --enable-shared <<<"$(ffmpeg -version)"; } # torchcodec loads libavcodec
makes_environments() { "$1" -c 'import ensurepip, venv'; }
compiles() { cmake --version && make --version && c++ --version; }
has_browser() {
    local name
    for name in chromium chromium-browser google-chrome google-chrome-stable; do "$name" --version && return; done
}
has_slurm() { slurmctld -V && slurmd -V && munged --version && type srun sbatch squeue scontrol; }
finds_boost() {
    printf '#include <boost/%s.hpp>\n' program_options system/error_code thread test/unit_test | c++ -x c++ -E -
}
# Each prints its usage and exits with an error; this also detects a shared library that was removed.
has_kenlm() {
    cmp -s "$kenlm" "$kenlm_stamp" && grep -q Kneser <<<"$("$venv/bin/lmplz" --help 2>&1)" &&
        grep -q Usage <<<"$("$venv/bin/build_binary" 2>&1)"
}

python=""
find_python() {
    local name candidate
    for name in ${PYTHON:+"$PYTHON"} python3.11 python3.12 python3.13 python3; do
        while read -r candidate; do
            # .venv's own interpreter is first on PATH under make, and is deleted when .venv is created again.
            [[ ${candidate%/*} -ef $venv/bin ]] && continue
            # A name on PATH is not enough: pyenv has shims for versions that are not active.
            "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' \
                </dev/null 2>/dev/null || continue
            python=$candidate
            return
        done < <(type -ap "$name")
        if [ "$name" = "${PYTHON:-}" ]; then
            fail "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13"
        fi
    done
    fail "no Python 3.11, 3.12 or 3.13 on PATH. Install one, or set PYTHON=/path/to/python3.11:" \
        "apt:   sudo apt-get install python3.11 python3.11-venv" \
        "brew:  brew install python@3.11" \
        "conda: conda create -n py311 -c conda-forge python=3.11 && conda activate py311"
}

look_for_programs() {
    missing=() packages=()
    want "SoX with MP3" "sox libsox-fmt-mp3" sox_reads_mp3
    want "FFmpeg with its shared libraries" "ffmpeg" ffmpeg_has_libraries
    want "espeak-ng" "espeak-ng" espeak-ng --version
    if [ -n "$python" ]; then
        want "Python's venv and ensurepip ($python)" \
            "python$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')-venv" \
            makes_environments "$python"
    fi
    if ! has_kenlm; then
        want "CMake, make and a C++ compiler" "cmake make g++" compiles
        want "Boost's headers and libraries" \
            "libboost-program-options-dev libboost-system-dev libboost-thread-dev libboost-test-dev" finds_boost
    fi
    if [[ $extra = *" browser "* ]]; then want "Chromium or Chrome, for the tests" "chromium" has_browser; fi
    if [[ $extra = *" slurm "* ]]; then want "Slurm and munge, for the tests" "slurm-wlm munge" has_slurm; fi
}

fail_for_programs() { # fail_for_programs "reason why they were not installed"
    local wanted
    wanted=$(printf ', %s' "${missing[@]}")
    fail "missing: ${wanted#, }" "$1. Install them with one of:" \
        "apt:   sudo apt-get install ${packages[*]}" \
        "brew:  brew install sox ffmpeg espeak-ng cmake boost python@3.11" \
        "conda: conda install -c conda-forge sox ffmpeg espeak-ng cmake make cxx-compiler libboost-devel python=3.11" \
        "browser, if missing: Chromium or Chrome from its website, with its program on PATH" \
        "Slurm, if missing: use Linux, for example a Debian container; only the tests need it"
}

install_programs() {
    if ! command -v apt-get >/dev/null; then
        fail_for_programs "This machine has no apt"
    elif ! as_root true 2>/dev/null; then
        fail_for_programs "This user is not root, and sudo is missing or asks for a password"
    fi
    say "installing ${packages[*]} with apt"
    # On a new machine the package lists are empty or old. A single broken source is no reason to stop.
    as_root apt-get update -qq || say "apt-get update failed; continuing with the existing package lists"
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends -o DPkg::Lock::Timeout=300 "${packages[@]}" ||
        fail_for_programs "apt failed to install them"
    look_for_programs
    if [ ${#missing[@]} -gt 0 ]; then
        fail_for_programs "apt installed its packages, but these programs do not work"
    fi
}

# ---------------------------------------------------------------- the Python environment

# What .venv must have been created from: this lock file, in this folder (the programs in .venv contain its path).
# Computed by .venv's own interpreter, which also shows that it runs.
fingerprint() {
    "$venv/bin/python" -I -S - "$lock" 2>/dev/null <<'PYTHON'
import hashlib, os, sys
with open(sys.argv[1], "rb") as lock:
    print(hashlib.sha256(lock.read()).hexdigest(), sys.version.split()[0], os.path.realpath("."))
PYTHON
}
is_current() {
    local now
    now=$(fingerprint) && [ "$now" = "$(cat "$stamp" 2>/dev/null)" ]
}

new_venv() {
    rm -rf "$venv"
    "$python" -m venv "$venv"
}

# uv installs the lock file about five times as fast as pip. It is itself in the lock file, with its hash.
# Its cache is on the same disk, so that files are linked, not copied, and is deleted afterwards, unless UV_CACHE_DIR
# is set.
install_with_uv() {
    local index
    awk '/^[^ #]/ { on = /^uv==/ } on' "$lock" >"$venv/uv.txt"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --only-binary :all: \
        -r "$venv/uv.txt" || return
    # uv does not read pip's configuration, of which a custom index is the most important part.
    index=${PIP_INDEX_URL:-$("$venv/bin/python" -m pip config get global.index-url 2>/dev/null || true)}
    if [ -n "$index" ] && [ -z "${UV_DEFAULT_INDEX:-}${UV_INDEX_URL:-}" ]; then
        export UV_DEFAULT_INDEX=$index
    fi
    # --build-constraints: the two packages without wheels are built with the locked setuptools, not the newest one.
    UV_CACHE_DIR=${UV_CACHE_DIR:-$venv/uv-cache} UV_HTTP_TIMEOUT=${UV_HTTP_TIMEOUT:-120} \
        "$venv/bin/uv" pip sync --python "$venv/bin/python" --require-hashes --build-constraints "$lock" "$lock" ||
        return
    rm -rf "$venv/uv-cache"
}
install_with_pip() {
    "$venv/bin/python" -m pip install --disable-pip-version-check --require-hashes -r "$lock"
}

# Import once what the jobs import. This shows that the packages work together (torch, torchaudio and transformers
# easily mismatch), and writes bytecode, without which every job takes three times as long to start.
try_imports() {
    say "importing everything once"
    env -u PYTHONDONTWRITEBYTECODE "$venv/bin/python" -c '
import datasets, jiwer, matplotlib.pyplot, pandas, snakemake.cli, soundfile, soxr, tensorboard, torch, torchaudio
from transformers import Trainer, Wav2Vec2ForCTC, Wav2Vec2Processor
' || fail "the packages of $lock do not work together on this machine; the lines above show which"
}

make_venv() {
    # If .venv is complete, in this folder and with this interpreter, only changes of the lock file are installed.
    if [ -e "$stamp" ] && [ "$(fingerprint | cut -d' ' -f2-)" = "$(cut -d' ' -f2- "$stamp")" ]; then
        say "$venv was created from another $lock; updating it"
    else
        say "creating $venv from $lock with $("$python" --version): about 5 GB, a few minutes"
        new_venv
    fi
    rm -f "$stamp"
    if ! install_with_uv; then
        say "uv failed; trying again with pip, which takes longer"
        new_venv
        install_with_pip
    fi
    try_imports
    fingerprint >"$stamp"
    say "done: $venv"
}

# ---------------------------------------------------------------- KenLM, which estimates language models

build_kenlm() {
    local work=$venv/kenlm
    say "building KenLM's lmplz and build_binary: a minute or two"
    rm -rf "$work"
    mkdir "$work"
    # pip builds metadata to read the version, for which the locked setuptools is enough.
    "$venv/bin/python" -m pip download --quiet --disable-pip-version-check --no-deps --no-build-isolation \
        --no-binary :all: --require-hashes -r "$kenlm" -d "$work" ||
        fail "the package index does not provide the source of KenLM that $kenlm pins"
    tar -xzf "$work"/kenlm-*.tar.gz -C "$work" --strip-components 1
    # Without the libraries for compressed text, which is not used here; -O1 builds in half the time of -O3.
    if ! {
        cmake -S "$work" -B "$work/build" -DCMAKE_CXX_FLAGS_RELEASE="-O1 -DNDEBUG" -DENABLE_INTERPOLATE=OFF \
            -DCMAKE_DISABLE_FIND_PACKAGE_ZLIB=ON \
            -DCMAKE_DISABLE_FIND_PACKAGE_BZip2=ON -DCMAKE_DISABLE_FIND_PACKAGE_LibLZMA=ON &&
            cmake --build "$work/build" --target lmplz build_binary -j 2
    } >"$work/log" 2>&1; then
        tail -n 20 "$work/log" >&2
        fail "KenLM could not be built; see $work/log for the complete output"
    fi
    mv "$work"/build/bin/{lmplz,build_binary} "$venv/bin/"
    rm -rf "$work"
    cp "$kenlm" "$kenlm_stamp"
    has_kenlm || fail "KenLM was built, but its programs do not run: $venv/bin/lmplz"
}

# ---------------------------------------------------------------- gradio, which would change packages of .venv

install_gradio() {
    say "installing gradio in $venv/gradio"
    rm -rf "$venv/gradio"
    "$venv/bin/python" -m pip install --quiet --disable-pip-version-check --require-hashes --no-deps \
        -r "$gradio" --target "$venv/gradio" || fail "the packages of $gradio could not be installed"
    cp "$gradio" "$gradio_stamp"
}

# Only one set-up runs at a time in a checkout, if flock is available: a parallel `make test` waits for `make demo`.
exec 9<"$lock"
if command -v flock >/dev/null; then flock 9 || true; fi

if is_current; then
    look_for_programs # without Python's venv module, since .venv exists
    if [ ${#missing[@]} -gt 0 ]; then install_programs; fi
else
    find_python
    look_for_programs
    if [ ${#missing[@]} -gt 0 ]; then install_programs; fi
    make_venv
fi
if ! has_kenlm; then build_kenlm; fi
if [[ $extra = *" gradio "* ]] && ! cmp -s "$gradio" "$gradio_stamp"; then install_gradio; fi
