//! What a destination refuses, told at admission instead of by a Pod that never starts.

use crate::destination::Destination;
use crate::reason::{Code, Reason};

/// The most containers and the most volumes of one ECI instance ("Limits of elastic container instances").
const ECI_MAX: usize = 20;

/// Checks the numbers that the Pod would have with its sidecars.
pub fn check(destination: Destination, containers: usize, volumes: usize) -> Result<(), Reason> {
    if destination != Destination::Eci {
        return Ok(());
    }
    for (what, count) in [("containers", containers), ("volumes", volumes)] {
        if count > ECI_MAX {
            return Err(Reason::new(
                Code::Unsupported,
                format!(
                    "with its sidecars the Pod has {count} {what}, but an ECI instance can have {ECI_MAX}"
                ),
            ));
        }
    }
    Ok(())
}
