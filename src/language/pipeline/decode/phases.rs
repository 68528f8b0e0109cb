//! Decodes `phases`.

use super::fields::Decoder;
use super::steps;
use crate::language::pipeline::model::{Phase, PhaseName, When};
use crate::language::pipeline::tables;
use crate::language::tree::{Entry, Node, Value};

pub(crate) fn phases(d: &mut Decoder<'_>, node: &Node) -> Vec<Phase> {
    let Some(fields) = d.fields(node, &tables::PHASES) else {
        return Vec::new();
    };
    PhaseName::ALL
        .into_iter()
        .filter_map(|name| {
            let phase = phase(d, name, fields.entry(name.as_str())?);
            d.lost_steps |= phase.is_none();
            phase
        })
        .collect()
}

fn phase(d: &mut Decoder<'_>, name: PhaseName, entry: &Entry) -> Option<Phase> {
    let node = &entry.node;
    if let Value::List(_) = node.value {
        d.problem(
            crate::language::diagnostic::Diagnostic::new(
                "a phase is a mapping, but this is a list",
                entry.key_span,
            )
            .help("put the list under `steps`"),
        );
        return None;
    }
    let fields = d.fields(node, &tables::PHASE)?;
    let mut list =
        |key: &str| fields.get(key).map(|node| d.list(node, "steps", steps::step)).unwrap_or_default();
    let (steps, finally) = (list("steps"), list("finally"));
    Some(Phase {
        name,
        when: d.optional(&fields, "when", when).unwrap_or_default(),
        steps,
        finally,
        timeout: d.optional(&fields, "timeout", Decoder::duration),
    })
}

pub(crate) fn when(d: &mut Decoder<'_>, node: &Node) -> Option<When> {
    d.choice(node, &[("success", When::Success), ("failure", When::Failure), ("always", When::Always)])
}
