#!/usr/bin/env bash
# What the recording of README.md shows: a plan, a merge that is interrupted, and the same merge that goes on.
#   benchmarks/recording.sh RECIPE OUT SECONDS       run by benchmarks/pictures.py in a terminal that is recorded
set -um # jobs of their own, so that an interrupt reaches them
sdmw=(python -m sdmw)
typed() {
    printf '\033[1;32m$\033[0m '
    for ((at = 0; at < ${#1}; at++)); do
        printf '%s' "${1:at:1}"
        sleep 0.03
    done
    printf '\n'
    sleep 0.4
}
typed "sdmw plan recipe.yaml merged"
"${sdmw[@]}" plan "$1" "$2"
sleep 1.5
typed "sdmw merge recipe.yaml merged"
"${sdmw[@]}" merge "$1" "$2" &
sleep "$3"
kill -INT %1
wait %1
sleep 1.5
typed "sdmw merge recipe.yaml merged     # the same again goes on"
"${sdmw[@]}" merge "$1" "$2"
sleep 4
