//! The table of all codes, in order of their number. Each constant beside it is what the crates use.

use super::{Code, Explanation};

macro_rules! codes {
    ($($name:ident = $number:literal, $what:literal, $why:literal, $remedy:literal;)*) => {
        impl Code {
            $(#[doc = $what] pub const $name: Code = Code($number);)*
        }
        pub(super) const ALL: &[Explanation] = &[
            $(Explanation { code: Code::$name, what: $what, why: $why, remedy: $remedy },)*
        ];
    };
}

codes! {
    DIR_LOCKED = 1001, "another process holds this directory",
        "an engine's directory has one owner at a time; the lock file names its process",
        "stop that process, or run both services in one process on one Bus (clone the Bus and run each Service on it)";
    DIR_NOT_OURS = 1002, "this directory is not an engine's directory",
        "it holds files, and none of them is our manifest (CURRENT); nothing in it was touched",
        "name another directory, or an empty one";
    DIR_IS_A_FILE = 1003, "the path is a file, not a directory",
        "the engine keeps several files in a directory of its own",
        "name a directory";
    DIR_NOT_WRITABLE = 1004, "the directory cannot be written",
        "it is read-only, or belongs to another user",
        "mend its permissions, or name another directory";
    DIR_NEWER = 1005, "the directory was written by a newer version",
        "its format version is higher than this program knows; nothing in it was touched",
        "run a version at least as new as the one that wrote it";
    LOG_CORRUPT = 1010, "the log is damaged where it was once durable",
        "a frame fails its checksum, and a later one proves that it had been synced: this is damage of the disk or of its file, not a torn last write",
        "keep the directory, copy it, restore from a backup; the message names the file, the byte and the sequence numbers";
    CHECKPOINT_CORRUPT = 1011, "a checkpoint is damaged and the log does not reach back far enough to do without it",
        "a section fails its checksum",
        "keep the directory, copy it, restore from a backup";
    MANIFEST_CORRUPT = 1012, "the manifest (CURRENT) is damaged",
        "its checksum does not fit its content",
        "keep the directory, copy it, restore from a backup";
    LOG_POISONED = 1020, "the log stopped confirming after a failed write or sync",
        "after a failed sync nobody knows what the disk holds; nothing was confirmed after it",
        "look at the disk and its messages, then start again: the next open verifies everything that was confirmed";
    DISK_FULL = 1021, "the disk has no room for more messages",
        "the next segment could not be prepared; what is stored can still be handled and settled",
        "free space or settle messages; publishing goes on by itself";
    LOG_TRIMMED = 1022, "the position asked for is no longer kept",
        "retention or trimming removed it",
        "read from the first position that is kept, and treat the gap as data loss";
    LOG_IO = 1023, "the operating system refused a file operation",
        "the message holds what it said",
        "mend what it names, then start again";
    URL_UNKNOWN_SCHEME = 1101, "no engine for this URL's scheme",
        "the program was built without the feature that brings it, or the scheme is misspelt",
        "build with the cargo feature that the message names";
    URL_MALFORMED = 1102, "the URL of the engine cannot be read",
        "a part of it is missing or an option is unknown",
        "write it as the engine's page says, for example embedded:./data or memory:";
    CONFIG_CONTRADICTS = 1103, "the configuration contradicts itself",
        "two settings exclude each other; the message names both",
        "drop one of them";
    NAME_MALFORMED = 1104, "this is not a name that every engine can carry",
        "names of services, topics and queues have 1 to 200 characters of a-z A-Z 0-9 . _ - and begin with a letter or digit",
        "give it another name";
    ENGINE_FAILED = 1105, "the engine failed or cannot be reached",
        "the message holds what it said",
        "mend what it names, then try again: the same message id is always safe";
    OUTSIDE = 1106, "something outside Postrider failed",
        "the message holds what it said",
        "mend what it names";
    PUBLISH_TOO_LARGE = 1201, "the message is larger than the engine takes",
        "the encoded envelope and payload are over the limit that the message names",
        "send less, or send a claim check (a reference to data kept elsewhere)";
    PUBLISH_NO_ROUTE = 1202, "nobody subscribes to this topic, or nobody owns this queue",
        "no subscription exists: a command is refused, and of an event the engine may only say so in its receipt",
        "start the consuming service once so that its subscription exists";
    PUBLISH_OVERLOADED = 1203, "the publisher's window is full",
        "more messages await confirmation than the limit allows",
        "wait for confirmations (publish waits by itself; try_publish does not)";
    PUBLISH_CONFLICT = 1204, "the stream is not at the expected version",
        "somebody else appended first",
        "read the stream again and decide again";
    PUBLISH_BAD_ENVELOPE = 1205, "the message's envelope breaks a limit",
        "a key, a name or the headers are too large or not well formed",
        "mend what the message names";
    PUBLISH_BEHIND_FAILED = 1206, "an earlier message of the same key was not published, so this one was not either",
        "messages of one key are stored in the order in which they were given",
        "look at the error of the earlier one; then publish both again, in order, under the same ids";
    HANDLER_PANICKED = 1301, "the handler panicked",
        "the panic was caught; it counts as a transient failure, and from the second on a message is not tried again at once",
        "mend the handler, then redrive";
    HANDLER_TIMED_OUT = 1302, "the handler did not return in time",
        "its timeout passed; its effects may have happened",
        "raise the timeout, or make the handler faster";
    PAYLOAD_UNREADABLE = 1303, "the payload cannot be read as its type",
        "it was written by another schema or codec, or is damaged; its raw bytes are kept in the failure record",
        "deploy a reader that knows it, then redrive";
    LEASE_LOST = 1304, "the delivery no longer belongs to this member",
        "its lease ran out, so it may have been handed to another; the result was dropped",
        "make the handler faster, or raise the lease";
    FENCED = 1305, "this member no longer owns the shard",
        "a newer owner took over",
        "nothing: the new owner goes on";
    CRASH_LOOP = 1306, "the process died several times while it handled this message",
        "it was in a handler at death after death, at the last ones as the only suspect, so it was set aside",
        "mend the handler, then redrive";
    RETRIES_EXHAUSTED = 1307, "the message failed more often than its policy allows",
        "each attempt failed; the failure record holds the errors",
        "mend the cause, then redrive";
    KEY_BLOCKED_TOO_LONG = 1308, "a blocked key filled its share and was parked",
        "its messages piled up behind one that keeps failing",
        "mend the cause, then redrive the key";
    HANDLER_PERMANENT = 1309, "the handler refused the message for good",
        "its error says that a retry cannot help",
        "mend the cause, then redrive, or discard it";
    UNAVAILABLE = 1310, "a dependency is unavailable and consumption is paused",
        "the handler said so; no attempt is burned",
        "nothing: it goes on when the dependency answers";
    DEADLINE_PASSED = 1311, "the message's deadline passed before it was handled",
        "it was not started",
        "nothing, or raise the deadline";
    REQUEST_TIMED_OUT = 1312, "no reply came before the deadline",
        "the other side is slow or down; the work may still be done",
        "ask again with the same id where the work is idempotent";
    REQUEST_NO_RESPONDER = 1313, "nobody answers requests of this kind",
        "no service owns the queue",
        "start the service that owns it";
    REPLY_FAILED = 1314, "the other side answered with an error",
        "its handler refused the request",
        "read the error that it sent";
    SUBSCRIPTION_STOPPED = 1315, "a subscription stopped itself",
        "a handler said stop, or its policy is to stop when a message fails for good; nothing of that message was settled",
        "mend the cause that the message names, then start again";
    PLAN_REFUSED = 1401, "the engine cannot give what a subscription needs",
        "the plan names the need and why it is refused; nothing was started",
        "drop the need, or choose another engine";
    TOPOLOGY_DIFFERS = 1402, "what exists differs from what the service needs",
        "a topic or subscription exists with other settings",
        "compare the difference, then start with `BusOptions::provision` set to create or migrate, or mend it by hand";
    QUEUE_TWO_OWNERS = 1403, "two services claim one queue",
        "a queue has one owner service",
        "use a topic where several services must see the message";
    HANDLER_DUPLICATE = 1404, "two handlers of one service take the same message type",
        "a subscription hands a message to one handler",
        "merge the handlers, or split the service";
    STORE_MISSING = 1405, "a transactional handler has no store",
        "it takes a `Tx`, and the service was given no store of that kind",
        "call `.store(…)` on the service";
    STATE_MISSING = 1406, "a handler takes a state that the service was not given",
        "it takes `State<T>`, and no value of type `T` was given to the service",
        "call `.state(value)` on the service";
    STORE_TWICE = 1407, "a service was given two stores of one kind",
        "a delivery is one commit in one store",
        "give it one store, or split the service";
    INBOX_CONFLICT = 1501, "a message came twice with the same id and different bodies",
        "the sender reuses ids; the second is kept as a failure record",
        "mend the sender: one id, one message";
    STORE_FAILED = 1502, "the store refused or failed",
        "the message holds what the database said",
        "mend what it names; the delivery is tried again";
    STORE_LOCKED = 1503, "another process holds the store",
        "one process writes a SQLite database of ours at a time",
        "stop that process";
    STORE_NEWER = 1504, "the store was written by a newer version",
        "its tables carry a higher version than this program knows",
        "run a version at least as new";
    STORE_NOT_DURABLE = 1505, "the store would lose commits that were acknowledged",
        "it does not run in WAL mode with synchronous=FULL",
        "open it through `Sqlite::open`, which sets both";
    ADMIN_NOT_RUNNING = 1601, "nothing answers on the directory's admin socket",
        "no process runs on that directory, or it was built without the admin API",
        "start it, or name the directory of one that runs";
    ADMIN_BAD_REQUEST = 1602, "the admin API does not understand the request",
        "a path, a parameter or the body is not what it takes",
        "compare it with the API's page";
    ADMIN_NOT_FOUND = 1603, "there is no such thing",
        "the name or number is not known here",
        "list what there is first";
    CLI_USAGE = 1604, "the command line does not understand this",
        "an argument is missing, unknown or not what the command takes",
        "compare it with `--help` of the command: it begins with examples";
    CLI_NOT_CONFIRMED = 1605, "nothing was done: it was not confirmed",
        "what changes failures or positions for good asks first, and needs a reason that is kept",
        "run it on a terminal, or with --yes and --reason; --dry-run shows what it would do";
    CLI_CHECK_FAILED = 1606, "a check failed",
        "what was looked at is beyond the limit that was given",
        "the message names what and by how much";
    CLI_REDRIVE_FAILED = 1607, "a redriven message failed again",
        "what made it fail is still there",
        "look at it with `postrider dlq show`, mend the cause, redrive again";
    CLI_TIMEOUT = 1608, "it took longer than was allowed",
        "the process is busy or hangs, or the messages wait for a retry; what was asked for may still happen",
        "look with `postrider sub ls` and `postrider dlq ls`; --timeout allows more";
    CLI_CONFLICT = 1609, "this cannot be done in the present state",
        "the message names what stands in the way",
        "change that first";
    CLI_NO_DIRECTORY = 1610, "no engine directory was named",
        "there is neither --dir nor POSTRIDER_DIR, and ./data is no engine directory",
        "name the directory, whether a process runs on it or not: --dir DIR";
    CLI_FAILED = 1611, "the command could not do its work",
        "the message holds what the system or the API said",
        "mend what it names, then run it again";
    DEMO_CSV_COLUMN = 1701, "the order file lacks a column",
        "its header must hold order_id, customer_id, placed_at, quantity and amount",
        "add the column that the message names";
    DEMO_CSV_UNREADABLE = 1702, "the order file cannot be read",
        "it does not exist, is a directory, or is not text",
        "name a CSV file with a header, or - for standard input";
    DEMO_STUCK = 1703, "orders did not end before the deadline",
        "no order ended for as long as --deadline allows",
        "look at the failures that the sheet names; raise --deadline where the machine is slow";
    DEMO_UNBALANCED = 1704, "the ledger does not balance",
        "something was lost, doubled or reordered: this is a defect of ours",
        "keep the directory and report it";
    DEMO_OTHER_INPUT = 1705, "the directory belongs to a run with other settings",
        "orders placed under one seed or input cannot be balanced under another",
        "use the same command again, or another --data directory";
    DEMO_OWN_FILE = 1706, "a file of the demo's directory cannot be read or written",
        "it is damaged where it was once durable, or the operating system refused",
        "mend what the message names, or name another --data directory";
    DEMO_SERVICES_DOWN = 1707, "the demo's services cannot be kept running",
        "they ended by themselves, again and again",
        "read the end of services.log in the demo's directory";
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_unique_and_in_order() {
        assert!(ALL.windows(2).all(|w| w[0].code < w[1].code));
    }

    #[test]
    fn a_code_is_read_in_any_spelling() {
        for text in ["PR-1001", "pr-1001", " 1001 "] {
            assert_eq!(Code::parse(text), Some(Code::DIR_LOCKED));
        }
        assert_eq!(Code::parse("PR-x"), None);
        assert!(Code(9999).explain().is_none());
    }
}
