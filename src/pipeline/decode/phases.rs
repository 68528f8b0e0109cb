//! `phases`.

use super::fields::Decoder;
use super::steps;
use crate::pipeline::keys;
use crate::pipeline::model::{Phase, PhaseName, When};
use crate::pipeline::tree::Node;

pub(super) fn phases(d: &mut Decoder<'_>, node: &Node) -> Vec<Phase> {
    let Some(fields) = d.fields(node, &keys::PHASES) else {
        return Vec::new();
    };
    PhaseName::ALL
        .into_iter()
        .filter_map(|name| {
            let node = fields.get(name.as_str())?;
            phase(d, name, node)
        })
        .collect()
}

fn phase(d: &mut Decoder<'_>, name: PhaseName, node: &Node) -> Option<Phase> {
    let fields = d.fields(node, &keys::PHASE)?;
    let mut list =
        |key: &str| fields.get(key).map(|node| d.list(node, "steps", steps::step)).unwrap_or_default();
    let (steps, finally) = (list("steps"), list("finally"));
    Some(Phase { name, when: d.optional(&fields, "when", when).unwrap_or_default(), steps, finally })
}

pub(super) fn when(d: &mut Decoder<'_>, node: &Node) -> Option<When> {
    d.choice(node, &[("success", When::Success), ("failure", When::Failure), ("always", When::Always)])
}
