#!/bin/sh
# Install Chromium, in which the page is tested, if it is missing and we have the rights. It is a system package, as nobody
# would update Playwright's own download. Without the rights, print the one command and go on.
#
#   sh infra/demo/browser.sh

here() { command -v chromium >/dev/null || command -v chromium-browser >/dev/null || command -v google-chrome >/dev/null; }

here && exit
if [ "$(id -u)" = 0 ]; then as_root=; else as_root="sudo -n"; fi
if command -v apt-get >/dev/null && $as_root true 2>/dev/null; then
    echo "installing Chromium, to test the page in …"
    for list in old new; do # as in sound.sh
        [ $list = old ] || $as_root apt-get update -qq
        $as_root env DEBIAN_FRONTEND=noninteractive \
            apt-get install -qq -y --no-install-recommends -o DPkg::Lock::Timeout=60 chromium
        here && exit
    done >/dev/null 2>&1
fi
case $(uname) in Darwin) install="brew install --cask chromium" ;; *) install="apt-get install chromium" ;; esac
echo "Chromium is missing, so the page is not tested in a browser. To do so: $install"
