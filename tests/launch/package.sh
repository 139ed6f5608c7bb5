#!/usr/bin/env bash
# The package for Debian: made of the build, without complaints of lintian, and what is in it works, completion in three
# shells too.   package.sh BUILD_DIR
set -eu
for tool in cpack lintian dpkg-deb help2man; do
  command -v $tool >/dev/null || { echo "SKIPPED: $tool is not installed"; exit 77; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cd "$1"
cpack -G DEB -B "$work" >"$work/log" 2>&1 || { echo "FAILED: cpack"; tail -n 20 "$work/log"; exit 1; }
deb=$(ls "$work"/mobula_*.deb)
# A build that is not configured for /usr has no folders by architecture.
TMPDIR=$work lintian --suppress-tags pkg-config-unavailable-for-cross-compilation "$deb" 2>&1 | grep -v 'root privileges' && { echo "FAILED: lintian"; exit 1; }
dpkg-deb -x "$deb" "$work/root"
"$work/root/usr/bin/mobula" --version
for page in mobula mobula-run mobula-each; do
  zcat "$work/root/usr/share/man/man1/$page.1.gz" | grep -q '^.SH OPTIONS' || { echo "FAILED: the page $page"; exit 1; }
done
ls -l "$deb" | awk '{print int($5 / 1e6 + 0.5) " MB"}'

echo "== completion"
PATH=$work/root/usr/bin:$PATH
# offered NAME…: all of these, and no others
offered() { [ "$(sort "$work/offered" | tr '\n' ' ')" = "$* " ] || { echo "FAILED: offered is $(tr '\n' ' ' <"$work/offered") in place of $*"; exit 1; }; }
in_bash() { # WORD…
  bash -c '. "$0"; COMP_WORDS=("$@") COMP_CWORD=$(($# - 1)); _mobula; printf "%s\n" "${COMPREPLY[@]}"' \
    "$work/root/usr/share/bash-completion/completions/mobula" "$@" >"$work/offered"
}
in_bash mobula s; offered status stop submit
in_bash mobula journal ''; offered --help --version ls rm show
in_bash mobula run --h; offered --help --hosts
if command -v fish >/dev/null; then
  in_fish() {
    HOME=$work fish -N -c 'source $argv[1]; complete -C $argv[2]' "$work/root/usr/share/fish/vendor_completions.d/mobula.fish" "$1" |
      cut -f 1 >"$work/offered"
  }
  in_fish "mobula s"; offered status stop submit
  in_fish "mobula journal "; offered ls rm show
  in_fish "mobula run --h"; offered --help --hosts
else
  echo "SKIPPED: fish is not installed"
fi
if command -v zsh >/dev/null; then
  # An interactive one, which writes what it offers to a terminal.
  cat >"$work/ask" <<'ZSH'
zmodload zsh/zpty
zpty shell zsh -f -i
# What is typed before it reads must not be taken by the terminal.
zpty -w shell "stty kill undef; PS1=; fpath=($1 \$fpath); autoload -U compinit; compinit -u -D; echo rea''dy"
zpty -r -m shell line '*ready*'
zpty -w -n shell "$2"$'\t\t\x15echo o\'\'ver\n'
zpty -r -m shell line '*over*'
print -r -- $line
ZSH
  in_zsh() {
    HOME=$work TERM=dumb timeout 20 zsh -f "$work/ask" "$work/root/usr/share/zsh/vendor-completions" "$1" |
      tr '\r\033' '\n\n' | sed -nE 's/^(\[J)?([a-z-]+) +-- .*/\2/p' | sort -u >"$work/offered"
  }
  in_zsh "mobula s"; offered status stop submit
  in_zsh "mobula journal "; offered ls rm show
  in_zsh "mobula run --h"; offered --help --hosts
else
  echo "SKIPPED: zsh is not installed"
fi
echo "all right"
