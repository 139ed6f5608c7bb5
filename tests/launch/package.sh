#!/usr/bin/env bash
# The package for Debian: made of the build, without complaints of lintian, and what is in it works.   package.sh BUILD_DIR
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
lintian --suppress-tags pkg-config-unavailable-for-cross-compilation "$deb" 2>&1 | grep -v 'root privileges' && { echo "FAILED: lintian"; exit 1; }
dpkg-deb -x "$deb" "$work/root"
"$work/root/usr/bin/mobula" --version
for page in mobula mobula-run mobula-each; do
  zcat "$work/root/usr/share/man/man1/$page.1.gz" | grep -q '^.SH OPTIONS' || { echo "FAILED: the page $page"; exit 1; }
done
ls -l "$deb" | awk '{print int($5 / 1e6 + 0.5) " MB"}'
