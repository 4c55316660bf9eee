//! What the daemon found out about a checkpoint of a job, a process or a container.

use cedana_api::v1::CheckResponse;
use cedana_checkpoint::output::printable::printable;
use serde_json::{Value, json};

use crate::output::marks::{Mark, Marks};
use crate::output::units;

/// The obstacles, the warnings, and what the checkpoint would cost.
pub(super) fn text(found: &CheckResponse, marks: Marks) -> String {
    let mut text = String::new();
    let mut line = |mark, said: &str| {
        text += &format!("{} {}\n", marks.of(mark), printable(said));
    };
    for obstacle in &found.obstacles {
        line(Mark::No, obstacle);
    }
    for warning in warnings(found) {
        line(Mark::Warning, &warning);
    }
    if found.obstacles.is_empty() {
        line(Mark::Yes, "nothing is known to stop a checkpoint");
    }
    text + &cost(found)
}

/// What the daemon warns of, and a lack of room.
fn warnings(found: &CheckResponse) -> Vec<String> {
    let mut warnings = found.warnings.clone();
    if found.free_bytes != 0 && found.free_bytes < found.memory_bytes {
        warnings.push(format!(
            "the directory has {} free, which is less than the {} of memory; the checkpoint is refused unless it compresses well enough; free room, or give another directory with -d",
            units::size(found.free_bytes),
            units::size(found.memory_bytes)
        ));
    }
    warnings
}

fn cost(found: &CheckResponse) -> String {
    let processes = match found.processes {
        0 => return String::new(),
        1 => "1 process".to_owned(),
        number => format!("{number} processes"),
    };
    let mut text = format!("{processes}, {} of memory", units::size(found.memory_bytes));
    if found.frozen_us != 0 {
        let frozen = units::duration(found.frozen_us);
        text += &format!("; would stand still for about {frozen}");
    }
    if found.free_bytes != 0 {
        text += &format!("; {} free", units::size(found.free_bytes));
    }
    text + "\n"
}

/// An object. The keys are documented in docs/cedana.md.
pub(super) fn json(found: &CheckResponse) -> Value {
    let known = |number: u64| (number != 0).then_some(number);
    json!({
        "ok": found.obstacles.is_empty(),
        "obstacles": found.obstacles,
        "warnings": warnings(found),
        "processes": found.processes,
        "memory_bytes": found.memory_bytes,
        "free_bytes": known(found.free_bytes),
        "frozen_us": known(found.frozen_us),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fit() -> CheckResponse {
        CheckResponse {
            processes: 2,
            memory_bytes: 3 << 20,
            free_bytes: 5 << 30,
            frozen_us: 61_000,
            ..CheckResponse::default()
        }
    }

    #[test]
    fn a_fit_process_has_its_cost() {
        assert_eq!(
            text(&fit(), Marks::Unicode),
            "✔ nothing is known to stop a checkpoint\n\
             2 processes, 3.0 MiB of memory; would stand still for about 61 ms; 5.0 GiB free\n"
        );
        assert_eq!(
            json(&fit()),
            json!({
                "ok": true, "obstacles": [], "warnings": [], "processes": 2,
                "memory_bytes": 3 << 20, "free_bytes": 5_u64 << 30, "frozen_us": 61_000,
            })
        );
    }

    #[test]
    fn obstacles_come_first_and_obey_no_terminal() {
        let found = CheckResponse {
            obstacles: vec!["process 5 (\u{1b}[2Jx) is traced".into()],
            warnings: vec!["one".into()],
            processes: 1,
            ..CheckResponse::default()
        };
        assert_eq!(
            text(&found, Marks::Ascii),
            "NO process 5 (\\u{1b}[2Jx) is traced\n!  one\n1 process, 0 B of memory\n"
        );
        let found = json(&found);
        assert_eq!(found["ok"], false);
        assert_eq!(found["free_bytes"], Value::Null);
        assert_eq!(found["frozen_us"], Value::Null);
    }

    #[test]
    fn too_little_room_is_a_warning() {
        let found = CheckResponse {
            free_bytes: 1 << 20,
            ..fit()
        };
        let text = text(&found, Marks::Ascii);
        assert!(text.contains("!  the directory has 1.0 MiB free"), "{text}");
        assert_eq!(json(&found)["warnings"].as_array().map(Vec::len), Some(1));
    }
}
