//! What a group can run out of for good, told before it does: rows, times that it can be opened, checkpoints.
//!
//! Neither the operator nor the pool can give more of these to a group that is there, so each says what to do instead.
use crate::figures::TargetFigures;
use crate::model::{Limit, LimitKind};

/// So few times that an encrypted group can be opened are told.
const FEW_OPENINGS: u64 = 1000;
/// So few checkpoints are told: an eighth of all.
const FEW_CHECKPOINTS: u64 = 1 << 29;

/// The limits that a served volume is at or near.
pub(super) fn near(name: &str, figures: &TargetFigures) -> Vec<Limit> {
    let mut near = Vec::new();
    if figures.rows_ended {
        near.push(Limit {
            kind: LimitKind::Rows,
            left: 0,
            status: format!(
                "volume {name} is full, whatever its pool has: the first row of its group can name no further row"
            ),
            action: format!(
                "discard what is not needed, or copy it to a new volume, made in its full size; {LARGER}"
            ),
        });
    }
    if let Some(left) = figures.openings_left.filter(|left| *left < FEW_OPENINGS) {
        near.push(Limit {
            kind: LimitKind::Openings,
            left,
            status: match left {
                0 => format!("volume {name} was opened so often that it can only be read any more"),
                _ => format!("volume {name} can be opened {left} times more, then it can only be read"),
            },
            action: match left {
                0 => "copy it to a new volume".to_owned(),
                _ => format!(
                    "plinth rekey {name}, then detach and attach it: what was kept for older keys makes room"
                ),
            },
        });
    }
    if let Some(left) = figures.checkpoints_left.filter(|left| *left < FEW_CHECKPOINTS) {
        near.push(Limit {
            kind: LimitKind::Checkpoints,
            left,
            status: match left {
                0 => format!("volume {name} has used up its checkpoints: it can only be read any more"),
                _ => format!("volume {name} can take {left} checkpoints more, then it can only be read"),
            },
            action: format!("copy it to a new volume; {LARGER}"),
        });
    }
    near
}

const LARGER: &str = "in a pool with larger extents a volume lasts longer";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_far_away_is_not_told() {
        let mut figures = TargetFigures {
            openings_left: Some(FEW_OPENINGS),
            checkpoints_left: Some(FEW_CHECKPOINTS),
            ..TargetFigures::default()
        };
        assert_eq!(near("v", &figures), []);
        figures = TargetFigures {
            rows_ended: true,
            openings_left: Some(7),
            checkpoints_left: Some(0),
            ..TargetFigures::default()
        };
        let told = near("v", &figures);
        let kinds: Vec<_> = told.iter().map(|limit| (limit.kind, limit.left)).collect();
        assert_eq!(kinds, [(LimitKind::Rows, 0), (LimitKind::Openings, 7), (LimitKind::Checkpoints, 0)]);
        assert!(told[1].status.contains("7 times more") && told[1].action.contains("plinth rekey v"));
        assert_eq!(near("v", &TargetFigures::default()), [], "an earlier build says nothing");
    }
}
