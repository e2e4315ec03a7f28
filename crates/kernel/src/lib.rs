//! The delivery state machine of Postrider: lanes, retry, park, dead letter, watermark, drain.
