# Fetches packages from Debian's archive without touching the machine's apt:
# own lists, own cache, no foreign architecture added, no root needed.
# Source it after common.sh and call these inside a `cached` build: they use $work.
# shellcheck shell=bash disable=SC2154 # $work

keyring=/usr/share/keyrings/debian-archive-keyring.gpg

# debian_entries [RELEASE]: "URI SUITE" of each entry of the machine's apt sources
# that is this release of Debian itself. apt has parsed them, whatever their
# format, and knows the origin from the signed Release files: other vendors' are
# left out. With RELEASE (bookworm, sid) they are that one's, from the same
# archives: its updates and its security updates, too, where it has such.
debian_entries() {
    local codename
    codename=$(. /etc/os-release && echo "${VERSION_CODENAME-}")
    # shellcheck disable=SC2016 # apt's own variables
    apt-get indextargets --format '$(ORIGIN) $(COMPONENT) $(CODENAME) $(REPO_URI) $(RELEASE)' \
        'Created-By: Packages' |
        awk -v codename="$codename" -v release="${1-}" '
            $1 != "Debian" || $2 != "main" || index($3, codename) != 1 { next }
            release == "" { print $4, $5; next }
            { part = substr($3, length(codename) + 1) }
            part == "" || release != "sid" && (part == "-updates" || part == "-security") { print $4, release part }' |
        sort -u
}

# candidate PACKAGE: the version that the machine's own package lists offer, for a
# key: what was built from an older one is then built anew. One word in any case.
candidate() {
    local version
    version=$(apt-cache policy "$1" | awk '$1 == "Candidate:" { print $2 }')
    printf '%s\n' "$1-${version:-unknown}"
}

# private_apt TYPE ARCH [RELEASE]: sets up a private apt state in $work/apt for
# packages of ARCH (TYPE deb) or for source packages (TYPE deb-src). With RELEASE
# they are of that one, from the same archives as this machine's.
private_apt() {
    local type=$1 arch=$2 release=${3-} targets=Packages entries uri suite
    if [ "$type" = deb-src ]; then targets=Sources; fi
    entries=$(debian_entries "$release")
    if [ -z "$entries" ]; then
        echo "apt has no package lists yet: fetching them"
        as_root apt-get update
        entries=$(debian_entries "$release")
    fi
    [ -n "$entries" ] ||
        die "none of this machine's apt sources is Debian's own archive for its release: add one, then run apt-get update"

    mkdir -p "$work"/apt/{lists/partial,cache/archives/partial,parts}
    touch "$work/apt/status"
    while read -r uri suite; do
        printf 'Types: %s\nURIs: %s\nSuites: %s\nComponents: main\nArchitectures: %s\nTargets: %s\nSigned-By: %s\n\n' \
            "$type" "$uri" "$suite" "$arch" "$targets" "$keyring"
    done <<<"$entries" >"$work/apt/parts/debian.sources"

    # The machine's hooks and pins are not for us; its proxy settings are.
    cat >"$work/apt/apt.conf" <<END
#clear APT::Architectures;
#clear APT::Update;
#clear DPkg::Post-Invoke;
APT::Architecture "$arch";
APT::Architectures { "$arch"; };
APT::Sandbox::User "$(id -un)";
Acquire::Languages "none";
Acquire::Retries "3";
Dir::State "$work/apt";
Dir::State::lists "$work/apt/lists";
Dir::State::status "$work/apt/status";
Dir::Cache "$work/apt/cache";
Dir::Etc::sourcelist "/dev/null";
Dir::Etc::sourceparts "$work/apt/parts";
Dir::Etc::preferences "/dev/null";
Dir::Etc::preferencesparts "/dev/null";
END
    # A mirror in the middle of its own update lacks a list or two; what we came
    # for may well be in the others, and the download below fails if not.
    apt-get -c "$work/apt/apt.conf" update ||
        echo "some package lists could not be fetched, going on with the others"
}

# fetch_package PACKAGE ARCH FOLDER: unpacks a binary package into FOLDER.
fetch_package() {
    private_apt deb "$2"
    download_package "$1" "$3"
}

# ask_apt COMMAND...: apt-cache, over what private_apt has set up.
ask_apt() { apt-cache -c "$work/apt/apt.conf" "$@"; }

# download_package PACKAGE FOLDER: the same, from what private_apt has set up.
download_package() {
    (cd "$work" && apt-get -c "$work/apt/apt.conf" download "$1")
    dpkg-deb --extract "$work"/"$1"_*.deb "$2"
    dpkg-deb --field "$work"/"$1"_*.deb Version >"$2/version"
}

# fetch_source PACKAGE FOLDER: unpacks a source package, Debian's patches
# applied, into FOLDER (which must not exist yet).
fetch_source() {
    private_apt deb-src "$(dpkg --print-architecture)"
    (cd "$work" && apt-get -c "$work/apt/apt.conf" source --download-only "$1")
    dpkg-source --extract "$work"/"$1"_*.dsc "$2"
}
