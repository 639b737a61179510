//! Bytes as `/proc/self/mountinfo`, in which a mount point's name is anybody's: any are read.
#![no_main]

use fluid_fuse::mount::MountEntry;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let lines = bytes.split(|byte| *byte == b'\n').count();
    let entries = MountEntry::all(bytes);
    assert!(entries.inspect(|entry| _ = entry.is_fuse()).count() <= lines);
});
