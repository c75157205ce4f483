#!/bin/sh
# Stands in for OpenWrt's shell library: UCI's files, `include`, and what packages' scripts call.
config_load() { config_file=/etc/config/$1; }

# shellcheck disable=SC2034 # the eval reads it
# config_get VARIABLE SECTION OPTION
config_get() {
    config_value=$(awk -v section="'$2'" -v option="$3" '
        $1 == "config" { inside = $3 == section }
        inside && $1 == "option" && $2 == option { sub(/^[^\047]*\047/, ""); sub(/\047.*/, ""); print; exit }
    ' "$config_file")
    eval "$1=\$config_value"
}

include() {
    for included in "$1"/*.sh; do
        # shellcheck disable=SC1090 # whatever is there
        . "$included"
    done
}

# default_postinst SCRIPT: enables the package's services, also in an image builder's tree.
default_postinst() {
    root=${IPKG_INSTROOT-}
    grep "^/etc/init.d/" "$root/usr/lib/opkg/info/$(basename "${1%.*}").list" | while read -r service; do
        sh "$root/etc/rc.common" "$root$service" enable
        [ -n "$root" ] || "$service" start
    done
}
