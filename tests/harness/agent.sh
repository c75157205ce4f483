#!/bin/busybox sh
# shellcheck shell=dash
# Runs the host's commands. They come over the second serial port as a line
# `run TOKEN SIZE` and SIZE bytes of shell script, or `put TOKEN SIZE PATH` and
# SIZE bytes to append to a file. TOKEN is random and never shown to the
# script, so nothing that a script prints can pass for its end.

exec 3<>/dev/ttyS1
stty raw -echo <&3

say() {
    printf '\n@%s\n' "$*" >&3
}

say ready
while IFS=' ' read -r verb token size path <&3; do
    case $verb in
    run)
        script=$(head -c "$size" <&3)
        say "$token begin"
        # Through a pipe: with a terminal for stdout, programs print other things.
        code=$({ { sh -c "$script" </dev/null 2>&1 3>&- 4>&-; echo $? >&4; } | cat >&3; } 4>&1)
        say "$token end $code"
        ;;
    put)
        say "$token begin"
        head -c "$size" <&3 >>"$path"
        say "$token end $?"
        ;;
    esac
done
