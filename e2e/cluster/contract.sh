# shellcheck shell=bash disable=SC2034
# Made from crates/layout/src/contract.rs by crates/fluid-fuse/tests/contract.rs; change it there. Sourced.
mount_root=/runtime-mnt
sidecar=fluid-fuse
vfuse_resource=alibabacloud.com/vfuse
