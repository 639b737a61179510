//! Bytes as Fluid's `config.json`, which a Dataset's author decides: any are read or refused, and mounts are below the
//! mount point.
#![no_main]

use std::path::Component;

use fluid_fuse::config::FluidConfig;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(config) = FluidConfig::parse("config.json", bytes) else { return };
    let _ = (config.target_path(), config.is_writable(), config.secret());
    for mount in config.mounts("config.json", |_| Some("value".into())).into_iter().flatten() {
        assert!(mount.path.components().all(|part| matches!(part, Component::Normal(_))), "{:?}", mount.path);
    }
});
