//! Headers and entries of the log, without the checksums that keep damage out.

use postrider_log::fuzz;

/// The first two bytes are kind and flags of an entry, the rest its body; all of it is read as headers too.
pub fn run(input: &[u8]) {
    fuzz::headers(input);
    if let [kind, flags, body @ ..] = input {
        fuzz::entry(*kind, *flags, body);
    }
}

/// The frames that a log wrote, from every place where an entry may begin.
pub fn seeds() -> Vec<(String, Vec<u8>)> {
    super::recovery::entries()
}
