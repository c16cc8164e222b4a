# shellcheck shell=bash
# Sourced by the scripts that call Rust, from the root of the checkout. rust-toolchain.toml names one version; where
# rustup does not have it under that name, its default serves as well, if it is new enough (scripts/require looks).
if ! rustc --version >/dev/null 2>&1; then
    found=$(cd / && rustup show active-toolchain 2>/dev/null) || found=
    if [[ -n $found ]]; then
        export RUSTUP_TOOLCHAIN=${found%% *}
    fi
    unset found
fi
