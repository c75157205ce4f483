#!/bin/sh
# Stands in for OpenWrt's shell library: UCI's files, and `include`.
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
