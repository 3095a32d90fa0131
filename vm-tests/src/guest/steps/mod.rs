//! The scenarios' parts inside the machine, by name.

mod boot;

use super::Step;

const STEPS: &[(&str, Step)] = &[("boot", boot::run)];

/// The part of the scenario called `name`.
pub(super) fn find(name: &str) -> Option<Step> {
    STEPS.iter().find(|(n, _)| *n == name).map(|(_, step)| *step)
}
