//! `parallel`: steps side by side. The first that fails ends the others.

use super::Context;
use crate::engine::run::Around;
use crate::exit::Failure;
use crate::language::pipeline::model::Step;
use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

pub(crate) async fn run(cx: &Context<'_>, steps: &[Step], outer: &Around<'_>) -> Result<(), Failure> {
    let token = cx.stopping.soft.child_token();
    let around = Around {
        phase: outer.phase,
        // Their time is the group's, which says itself when it is over.
        limits: &[],
        token: token.clone(),
        finally: outer.finally,
        beside: true,
    };
    let mut members: FuturesUnordered<_> = steps.iter().map(|step| cx.run.member(step, &around)).collect();
    let mut first = None;
    while let Some(result) = members.next().await {
        if let Err(failure) = result {
            first.get_or_insert(failure);
            token.cancel();
        }
    }
    first.map_or(Ok(()), Err)
}
