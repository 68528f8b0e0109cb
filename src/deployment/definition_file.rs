//! Reads task definitions from files. Mistakes in them have their place.

use crate::document;
use crate::ecs::field_path::{FieldPath, PathPart};
use crate::ecs::task_definition::{Request, TaskDefinitionError};
use crate::exit::Failure;
use crate::files;
use crate::language::source::{SourceFile, Span};
use crate::language::tree::{self, Node, Value};
use crate::limits;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// The largest task definition that is read, in bytes.
const MAX_BYTES: u64 = 16 * 1024 * 1024;

/// Reads a task definition from a file.
pub(crate) fn read_definition(path: &Path) -> Result<Request, Failure> {
    let unreadable = |reason: String| {
        Failure::usage(format!("could not read the task definition {}: {reason}", path.display()))
    };
    // Another pipe than the shell's `<(…)` may never end.
    let is_of_shell = path.starts_with("/dev/fd") || path.starts_with("/dev/stdin");
    let bytes = if is_of_shell {
        let mut bytes = Vec::new();
        let read = File::open(path).and_then(|file| file.take(MAX_BYTES).read_to_end(&mut bytes));
        read.map(|_| bytes)
    } else {
        files::read_small(path, MAX_BYTES)
    };
    let bytes = bytes.map_err(|error| unreadable(error.to_string()).limited(limits::advice(&error)))?;
    let text = String::from_utf8(bytes).map_err(|_| unreadable("it is not UTF-8".to_owned()))?;
    let is_blank = |line: &str| line.is_empty() || line.starts_with('#') || line == "---";
    if text.trim_start_matches('\u{feff}').lines().all(|line| is_blank(line.trim())) {
        return Err(Failure::usage(format!("the task definition {} is empty", path.display())));
    }
    let document = document::parse(&text)
        .map_err(|reason| unreadable(reason).help("write a task definition as JSON or YAML"))?;
    Request::from_document(document).map_err(|error| {
        let source = SourceFile::new(path.display().to_string(), &text);
        let place = match error.place().and_then(|field| span(&source, field)) {
            Some(span) => {
                let (line, column) = source.line_column(span.start);
                format!("{}:{line}:{column}", source.name)
            }
            None => source.name,
        };
        located(error, &place)
    })
}

fn located(error: TaskDefinitionError, place: &str) -> Failure {
    let failure = Failure::from(error);
    Failure { message: format!("{place}: {}", failure.message), ..failure }
}

/// The place of a field in a file, if the file can be read as YAML, of which JSON is a part.
fn span(source: &SourceFile, field: &FieldPath) -> Option<Span> {
    let root = tree::parse(source, &mut Vec::new()).ok()?;
    // The tags may be next to the definition that a response wraps.
    let wrapped = member(&root, "taskDefinition").and_then(|inner| find(inner, field));
    wrapped.or_else(|| find(&root, field)).map(Node::place)
}

fn find<'n>(root: &'n Node, field: &FieldPath) -> Option<&'n Node> {
    field.parts().iter().try_fold(root, |node, part| match (part, &node.value) {
        (PathPart::Field(name), _) => member(node, name),
        (PathPart::Item(at), Value::List(items)) => items.get(*at),
        _ => None,
    })
}

fn member<'n>(node: &'n Node, name: &str) -> Option<&'n Node> {
    let Value::Map(entries) = &node.value else { return None };
    entries.iter().find(|entry| entry.key == name).map(|entry| &entry.node)
}
