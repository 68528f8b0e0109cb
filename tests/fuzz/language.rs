//! Fuzzes everything that processes untrusted text before a run starts: parsing, checks, interpolation, planning, the
//! policy, and their messages.
#![no_main]
#![allow(dead_code, unreachable_pub, unused_imports, reason = "only a part of the modules is used here")]

#[path = "../../src/address/mod.rs"]
mod address;
#[path = "../../src/document/mod.rs"]
mod document;
#[path = "../../src/duration.rs"]
mod duration;
#[path = "../../src/language/mod.rs"]
mod language;
#[path = "../../src/plan/mod.rs"]
mod plan;
#[path = "../../src/secret/mod.rs"]
mod secret;
#[path = "../../src/text.rs"]
mod text;

use libfuzzer_sys::fuzz_target;
use language::pipeline::model::EventKind;
use language::pipeline::{self, reference, template};
use language::source::{SourceFile, Span};
use plan::asks::{AskList, Unknowns};
use plan::context::BuildContext;
use plan::facts::Facts;
use plan::outline::{Input, outline};
use plan::scope::Sources;
use plan::{Mode, condition, policy};
use std::collections::HashMap;

/// The limit of the file is 1 MiB. Smaller texts find as much, faster.
const MAX: usize = 64 * 1024;

fuzz_target!(|data: &[u8]| {
    let text = String::from_utf8_lossy(&data[..data.len().min(MAX)]);
    small_parsers(&text);
    let source = SourceFile::new("pipeline.yml", &text);
    let parsed = pipeline::parse(&source);
    let has_diagnostics = !parsed.diagnostics.is_empty();
    for diagnostic in parsed.diagnostics.iter().take(20) {
        assert!(!diagnostic.message.is_empty());
        let _ = diagnostic.render(&source, false);
        let _ = diagnostic.to_json(&source);
    }
    let Some(pipeline) = parsed.into_valid().ok() else {
        assert!(has_diagnostics, "an invalid file has diagnostics");
        return;
    };
    // A branch name that is harmful wherever it is evaluated.
    let context = BuildContext {
        commit: Some("0123456789abcdef0123456789abcdef01234567".to_owned()),
        branch: Some("$(touch /tmp/x)`${SECRET}`*".to_owned()),
        event: if data.len() % 2 == 0 { EventKind::Push } else { EventKind::PullRequest },
        ..BuildContext::default()
    };
    for elsewhere in [false, true] {
        let sources = Sources { elsewhere, ..Sources::default() };
        let (values, _) = plan::values(&pipeline, &sources, &context, Mode::Publish);
        let _ = plan::plan(&pipeline, &[], &context, Mode::Publish, &values);
        let facts = Facts::default();
        let asks = AskList::new(&pipeline, &values, &facts, Unknowns::Written, (None, None));
        let sizes = HashMap::new();
        let input = Input {
            pipeline: &pipeline,
            selected: &[],
            context: &context,
            mode: Mode::Publish,
            values: &values,
            asks: &asks,
            sizes: &sizes,
        };
        serde_json::to_string(&outline(&input)).expect("an outline is JSON");
        let asks = AskList::new(&pipeline, &values, &facts, Unknowns::Patterns, (None, None));
        for policy in policy::policies(&pipeline, &asks) {
            let _ = (policy.to_json(), policy.to_terraform(), policy.to_cloudformation());
        }
    }
    let _ = condition::verdicts(&pipeline, &context);
});

fn small_parsers(text: &str) {
    let _ = template::Template::parse(text, Span::default(), text).map(|template| template.shape());
    let _ = duration::parse(text);
    let _ = reference::SecretReference::parse(text);
    let _ = reference::check_parameter(text);
    let _ = plan::environment::parse(text);
    let _ = plan::environment::parse_handed_on(text);
    let _ = address::Repository::parse(text);
    if let Some((pattern, name)) = text.split_once('\n')
        && pattern.len() + name.len() < 2000
        && let Ok(glob) = language::glob::Glob::parse(pattern)
    {
        let _ = glob.matches(name);
    }
}
