//! Record batches of the log, as they are and with their checksums made right.

use postrider_log::fuzz;

/// A table with its batch.
pub fn run(input: &[u8]) {
    fuzz::record_batch(input, false);
    fuzz::record_batch(input, true);
}

/// The batches of a log, with their tables.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    let entries = super::recovery::entries();
    let data = entries
        .into_iter()
        .filter(|(_, bytes)| bytes.first() == Some(&1));
    // Behind kind and flags: stream (4) and base (8), then the block.
    data.map(|(name, bytes)| (name, bytes.get(14..).unwrap_or_default().to_vec()))
        .collect()
}
