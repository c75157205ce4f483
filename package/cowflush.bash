# Completion of cowflush for bash. It asks the program for its commands and options.
# shellcheck shell=bash

# _cowflush_list HEADING WORD...: what `cowflush WORD... --help` lists under a heading.
_cowflush_list() {
    local heading=$1
    shift
    cowflush "$@" --help 2>/dev/null |
        sed -n "/^$heading:/,/^\$/s/^  \(\(--\)\{0,1\}[a-z][a-z-]*\).*/\1/p"
}

_cowflush() {
    local current=${COMP_WORDS[COMP_CWORD]} words=() word heading=Commands
    for word in "${COMP_WORDS[@]:1:COMP_CWORD-1}"; do
        # Only the word right after cowflush is a command, and `format` after `log`.
        if [[ ${#words[@]} = 0 || "${words[*]} $word" = "log format" ]]; then words+=("$word"); fi
    done
    if [[ $current = -* ]]; then heading=Options; fi
    mapfile -t COMPREPLY < <(compgen -W "$(_cowflush_list "$heading" "${words[@]}")" -- "$current")
    if [[ ${#COMPREPLY[@]} = 0 ]]; then mapfile -t COMPREPLY < <(compgen -f -- "$current"); fi
}

complete -o filenames -F _cowflush cowflush
