//! `postrider dlq discard`: failures removed for good.

use postrider::{Code, SubscriptionId};
use serde_json::{Value, json};

use super::records::{Kept, Which, act, how_many, names};
use crate::ask::{Progress, Sure};
use crate::client::{Place, subscription};
use crate::end::{EXIT_CODES, Exit, Failure, Result};
use crate::output::{Form, Output, Shown, cell, print, table};

/// Records in one request.
const BATCH: usize = 1000;

#[derive(clap::Args)]
#[command(override_usage = "postrider dlq discard [OPTIONS] <ID> <N... | --group TEXT | --key KEY | --all>", before_help = "Examples:
  postrider dlq discard payment@topic:shop.order 17 18 --reason \"test orders\"
  postrider dlq discard payment@topic:shop.order --group 'permanent · placed · card # declined' --dry-run
  postrider dlq discard payment@topic:shop.order --all --yes --reason \"test system\"", after_help = EXIT_CODES)]
pub(crate) struct Arguments {
    /// The subscription: SERVICE@topic:NAME or SERVICE@queue:NAME
    #[arg(value_parser = subscription, add = crate::complete::subscriptions())]
    id: SubscriptionId,
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    sure: Sure,
    #[command(flatten)]
    place: Place,
    #[command(flatten)]
    output: Output,
}

pub(super) async fn run(arguments: Arguments) -> Result {
    let Arguments {
        id,
        which,
        sure,
        place,
        output,
    } = arguments;
    sure.check()?;
    let client = place.client()?;
    let records = which.find(&client, &id).await?;
    // What was counted is what goes: a failure that comes meanwhile stays.
    let meant = records.iter().filter(|r| r.is_meant && r.is_waiting);
    let meant: Vec<u64> = meant.map(|r| r.id).collect();
    let many = how_many(meant.len(), &id);
    let mut progress = Progress::default();
    if sure.dry_run {
        progress.end(&format!("would discard {many}"));
        write(output, &id, &meant, 0, true)?;
        return Ok(Exit::Ok);
    }
    sure.confirm(&format!("discard {many} for good?")).await?;
    let kept = Kept {
        reason: sure.reason().await?,
        by: sure.by(),
    };
    let mut discarded = 0;
    for batch in meant.chunks(BATCH) {
        discarded += act(&client, &id, "discard", batch, &kept).await?;
        progress.show(&format!("discarded {discarded} of {}", meant.len()));
    }
    progress.end(&format!("discarded {}", how_many(discarded, &id)));
    write(output, &id, &meant, discarded, false)?;
    match discarded == meant.len() {
        true => Ok(Exit::Ok),
        false => {
            let what = format!("{discarded} of {many} were discarded");
            Err(Failure::new(Exit::Partial, Code::CLI_CONFLICT, what)
                .why("the others ended meanwhile, or are on their way back to the handler")
                .remedy("look at them again with `postrider dlq ls`")
                .into())
        }
    }
}

fn write(
    output: Output,
    id: &SubscriptionId,
    meant: &[u64],
    discarded: usize,
    dry_run: bool,
) -> Result<()> {
    if output.form == Form::Name {
        return print(&names(id, meant));
    }
    let done = json!({
        "subscription": id.to_string(),
        "selected": meant.len(),
        "discarded": discarded,
        "dry_run": dry_run,
    });
    let text = || {
        let row = ["/subscription", "/selected", "/discarded"].map(|path| cell(&done, path));
        table(["SUBSCRIPTION", "SELECTED", "DISCARDED"], vec![row])
    };
    let name = |done: &Value| cell(done, "/subscription");
    output.write(&Shown::one(&done, name, &text))
}
