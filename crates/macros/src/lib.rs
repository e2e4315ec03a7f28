//! derive(Message) and derive(Fault).
