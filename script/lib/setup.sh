# Sourced by the scripts: finds the folders that outlive a checkout and installs what is missing.
#
# Everything that takes long is kept outside the checkout, so that a clean clone reuses it:
#   MIOSA_BUILD_DIR  cargo target folder, Python environment, browser driver (/var/cache/miosa-build)
#   MIOSA_CACHE_DIR  template cache, shared by data folders                  (/var/cache/miosa)

root=$(cd "$(dirname "${BASH_SOURCE[0]}")/../.." && pwd)
export MIOSA_BUILD_DIR=${MIOSA_BUILD_DIR:-/var/cache/miosa-build}
export MIOSA_CACHE_DIR=${MIOSA_CACHE_DIR:-/var/cache/miosa}
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$MIOSA_BUILD_DIR/target}
sdk_version=2.19.2
playwright_version=1.65.1

say() { printf '\033[2m· %s\033[0m\n' "$*" >&2; }
die() {
  printf '\033[31m%s\033[0m\n' "$*" >&2
  last_words=$*
  exit 1
}

# Fails early, with what to do, on what a script cannot install by itself.
require_machine() {
  [ "$(id -u)" = 0 ] || die "Run this as root: sandboxes need namespaces, mounts and network devices."
  command -v cargo >/dev/null || die "Rust is missing: install 1.95 or newer from rustup.rs."
  local rust node
  rust=$(rustc --version | sed -E 's/^rustc ([0-9]+)\.([0-9]+).*/\1 \2/')
  [ "${rust% *}" -gt 1 ] || [ "${rust#* }" -ge 95 ] || die "Rust 1.95 or newer is needed, this is $(rustc --version)."
  command -v node >/dev/null || die "Node is missing: version 20.19 or newer is needed for the demo's browser."
  node=$(node -p 'const [a, b] = process.versions.node.split("."); a > 20 || (a == 20 && b >= 19) ? "ok" : "old"')
  [ "$node" = ok ] || die "Node 20.19 or newer is needed, this is $(node --version)."
}

# Debian packages: a program or file that shows that it is there (`-`: nothing can), then the package.
install_packages() {
  local missing=() pair
  for pair in "$@"; do
    command -v "${pair%%:*}" >/dev/null || [ -e "${pair%%:*}" ] || missing+=("${pair#*:}")
  done
  [ ${#missing[@]} = 0 ] && return
  say "installing ${missing[*]}"
  mkdir -p "$MIOSA_BUILD_DIR"
  local log=$MIOSA_BUILD_DIR/apt.log
  {
    apt-get update
    DEBIAN_FRONTEND=noninteractive apt-get install -y --no-install-recommends "${missing[@]}"
  } >"$log" 2>&1 || {
    tail -n 20 "$log" >&2
    die "apt could not install ${missing[*]}; the whole log is in $log"
  }
}

# What running and building the platform needs.
install_platform_packages() {
  install_packages crun:crun nft:nftables mkfs.btrfs:btrfs-progs mmdebstrap:mmdebstrap ip:iproute2 \
    mkfs.ext4:e2fsprogs losetup:mount cc:gcc cmake:cmake git:git curl:curl
}

# A PostgreSQL that tests start servers of, each its own; the package's server is not wanted.
install_postgresql() {
  if ! ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1; then
    mkdir -p /etc/postgresql-common/createcluster.d
    echo "create_main_cluster = false" >/etc/postgresql-common/createcluster.d/miosa.conf
    install_packages -:postgresql
  fi
  export MIOSA_TEST_POSTGRES=1 # from here on a test may not be skipped for want of it
}

# The real SDK, in a Python environment of its own.
install_sdk() {
  export SDK_PYTHON=$MIOSA_BUILD_DIR/python-$sdk_version/bin/python
  if ! "$SDK_PYTHON" -c 'import miosa' 2>/dev/null; then
    say "installing the Python SDK miosa $sdk_version"
    python3 -c 'import venv, ensurepip' 2>/dev/null || install_packages -:python3-venv
    rm -rf "$MIOSA_BUILD_DIR/python-$sdk_version"
    python3 -m venv "$MIOSA_BUILD_DIR/python-$sdk_version"
    "$SDK_PYTHON" -m pip install --quiet --disable-pip-version-check "miosa==$sdk_version"
  fi
}

# A real Chromium and what drives it.
install_browser() {
  install_packages chromium:chromium
  export BROWSER_MODULES=$MIOSA_BUILD_DIR/browser-$playwright_version
  if [ ! -d "$BROWSER_MODULES/node_modules/playwright-core" ]; then
    say "installing playwright-core $playwright_version"
    mkdir -p "$BROWSER_MODULES"
    (cd "$BROWSER_MODULES" && npm install --silent --no-save --ignore-scripts "playwright-core@$playwright_version") >&2
  fi
}

# Builds the binary and names it in $MIOSA. `build_miosa release` is for measuring: what tests and
# demo use builds in half the time.
build_miosa() {
  local profile=${1:-dev} folder=${1:-debug}
  say "building miosa (profile $profile, cargo target folder: $CARGO_TARGET_DIR)"
  (cd "$root" && cargo build --profile "$profile" --bin miosa) >&2 || die "the build failed"
  export MIOSA=$CARGO_TARGET_DIR/$folder/miosa
}

# The default template, which the provider's tests start workloads from; a minute or two, once.
build_template() {
  build_miosa
  "$MIOSA" template build --cache-dir "$MIOSA_CACHE_DIR" >&2 || die "the template could not be built"
  export MIOSA_TEST_MACHINE=1 # from here on a test may not be skipped for want of root, crun or a template
}
