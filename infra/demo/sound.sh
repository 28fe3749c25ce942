#!/bin/sh
# Install FluidSynth, the synthesiser for sound, if it is missing and we have the rights. It is a system library, the one
# dependency that pip does not install. Without the rights, print the one command and go on: only sound needs it.
#
#   sh infra/demo/sound.sh PYTHON

here() { "$1" -c 'import sys; from ctypes.util import find_library; sys.exit(not find_library("fluidsynth"))'; }

here "$1" && exit
if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing FluidSynth (libfluidsynth3), for sound …"
    # a fresh machine has no list of packages yet, or an old one; env, as sudo passes no variables on
    for list in old new; do
        [ $list = old ] || $as_root apt-get update -qq
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=60 libfluidsynth3
        here "$1" && exit
    done >/dev/null 2>&1
fi
case $(uname) in Darwin) install="brew install fluid-synth" ;; *) install="apt-get install libfluidsynth3" ;; esac
echo "FluidSynth is missing, so there will be no sound. To have it: $install"
