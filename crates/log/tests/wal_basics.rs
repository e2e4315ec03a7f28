//! The log on a memory disk: append, read back, reopen, checkpoint, free.
#![allow(clippy::unwrap_used)]

use std::sync::Arc;

use postrider_log::Error;
use postrider_log::disk::MemDisk;
use postrider_log::wal::{
    EntryBytes, FrameRef, Location, Lsn, NoReplay, Sync, Visitor, Wal, WalOptions,
};

#[derive(Default)]
struct Seen {
    sections: Vec<(String, Vec<u8>)>,
    frames: Vec<(Lsn, Vec<Vec<u8>>)>,
    locations: Vec<Location>,
}

impl Visitor for Seen {
    fn checkpoint(&mut self, section: &str, bytes: &[u8]) -> Result<(), Error> {
        self.sections.push((section.to_owned(), bytes.to_vec()));
        Ok(())
    }
    fn frame(&mut self, frame: &FrameRef<'_>) -> Result<(), Error> {
        self.frames.push((
            frame.lsn(),
            frame.entries().map(|entry| entry.body.to_vec()).collect(),
        ));
        self.locations
            .extend(frame.entries().map(|entry| entry.location));
        assert_eq!(frame.len(), frame.entries().count());
        Ok(())
    }
}

fn options() -> WalOptions {
    WalOptions {
        segment_bytes: [16 << 10, 32 << 10, 64 << 10],
        checkpoint_bytes: 32 << 10,
        tail_bytes_max: 8 << 10,
        ..WalOptions::default()
    }
}

fn put(wal: &mut Wal, body: &[u8]) -> (Lsn, Location) {
    let appended = wal
        .append(
            &[EntryBytes {
                kind: 7,
                flags: 1,
                body: &[body],
            }],
            Sync::Now,
        )
        .unwrap();
    (appended.lsn, appended.locations[0])
}

fn commit(wal: &mut Wal) {
    while let Some(job) = wal.begin().unwrap() {
        let done = job.run();
        wal.finish(done).unwrap();
    }
    while let Some(job) = wal.prepare_step() {
        let done = job.run();
        wal.finish_prepare(done).unwrap();
    }
}

#[test]
fn entries_are_readable_staged_written_and_from_the_disk() {
    let disk = MemDisk::new();
    let (mut wal, report) = Wal::open(Arc::new(disk.clone()), options(), &mut NoReplay).unwrap();
    assert!(report.created && report.clean);
    let mut placed = Vec::new();
    for n in 0..200u32 {
        let body = vec![n as u8; 100 + (n as usize * 37) % 9000];
        let (lsn, at) = put(&mut wal, &body);
        assert_eq!(lsn, Lsn(u64::from(n) + 1));
        placed.push((at, body));
        if n % 3 == 0 {
            commit(&mut wal);
        }
        for (at, body) in &placed {
            assert_eq!(&wal.read(*at).unwrap()[..], &body[..]);
        }
    }
    assert!(wal.segments().len() > 5);
    assert!(matches!(
        Wal::open(Arc::new(disk.clone()), options(), &mut NoReplay),
        Err(Error::Locked { .. })
    ));
    wal.close().unwrap();
    assert!(matches!(
        wal.append(
            &[EntryBytes {
                kind: 0,
                flags: 0,
                body: &[]
            }],
            Sync::Now
        ),
        Err(Error::Closed)
    ));
    for (at, body) in &placed {
        assert_eq!(
            &wal.read(*at).unwrap()[..],
            &body[..],
            "closed, but readable"
        );
    }

    // Its directory is free, though the closed log is still there.
    let mut seen = Seen::default();
    let reopened = Wal::open(Arc::new(disk), options(), &mut seen).unwrap();
    drop(wal);
    let (wal, report) = reopened;
    assert!(report.clean && !report.created && report.cut.is_none());
    assert_eq!((report.last, report.next), (Lsn(200), Lsn(201)));
    assert_eq!(seen.frames.len(), 200);
    for (n, (at, body)) in placed.iter().enumerate() {
        assert_eq!(seen.frames[n], (Lsn(n as u64 + 1), vec![body.clone()]));
        assert_eq!(seen.locations[n], *at);
        assert_eq!(&wal.read(*at).unwrap()[..], &body[..]);
    }
}

#[test]
fn checkpoint_replaces_the_log_before_it_and_its_segments_can_be_freed() {
    let disk = MemDisk::new();
    let (mut wal, _) = Wal::open(Arc::new(disk.clone()), options(), &mut NoReplay).unwrap();
    for n in 0..60u8 {
        put(&mut wal, &[n; 3000]);
        commit(&mut wal);
    }
    let sealed: Vec<_> = wal
        .segments()
        .into_iter()
        .filter(|segment| segment.sealed)
        .collect();
    assert!(matches!(
        wal.free(&[sealed[0].id]),
        Err(Error::Refused { .. })
    ));
    let (unsynced, _) = put(&mut wal, b"later");
    assert!(matches!(
        wal.checkpoint(Vec::new(), unsynced),
        Err(Error::Refused { .. })
    ));
    let sections = vec![
        ("streams".to_owned(), vec![1, 2, 3]),
        ("queues".to_owned(), Vec::new()),
    ];
    let job = wal.checkpoint(sections.clone(), Lsn(60)).unwrap();
    assert!(matches!(
        wal.checkpoint(Vec::new(), Lsn(60)),
        Err(Error::Busy { .. })
    ));
    wal.finish_checkpoint(job.run()).unwrap();
    let before = disk.memory_bytes();
    wal.free(&sealed.iter().map(|segment| segment.id).collect::<Vec<_>>())
        .unwrap();
    commit(&mut wal);
    assert!(disk.memory_bytes() < before);
    wal.close().unwrap();
    drop(wal);

    let mut seen = Seen::default();
    let (_wal, report) = Wal::open(Arc::new(disk), options(), &mut seen).unwrap();
    assert_eq!(report.checkpoint, Lsn(60));
    assert_eq!(seen.sections, sections);
    assert_eq!(seen.frames, [(Lsn(61), vec![b"later".to_vec()])]);
}

#[test]
fn limits_refuse_and_leave_the_log_usable() {
    let options = WalOptions {
        frame_bytes_max: 10_000,
        staged_bytes_max: 15_000,
        ..options()
    };
    let (mut wal, _) = Wal::open(Arc::new(MemDisk::new()), options, &mut NoReplay).unwrap();
    let body = vec![1; 9_000];
    let entry = EntryBytes {
        kind: 1,
        flags: 0,
        body: &[&body, &body],
    };
    assert!(matches!(
        wal.append(&[entry], Sync::Now),
        Err(Error::FrameTooLarge {
            bytes: 18_044,
            max: 10_000
        })
    ));
    assert!(matches!(
        wal.append(&[], Sync::Now),
        Err(Error::Refused { .. })
    ));
    put(&mut wal, &body);
    let entry = EntryBytes {
        kind: 1,
        flags: 0,
        body: &[&body],
    };
    assert!(matches!(
        wal.append(&[entry], Sync::Lazy),
        Err(Error::Overloaded { .. })
    ));
    commit(&mut wal);
    assert_eq!(put(&mut wal, &body).0, Lsn(2));
}

#[test]
fn lazy_frames_are_written_without_a_sync_and_durable_with_the_next_one() {
    let (mut wal, _) = Wal::open(Arc::new(MemDisk::new()), options(), &mut NoReplay).unwrap();
    wal.append(
        &[EntryBytes {
            kind: 1,
            flags: 0,
            body: &[b"x"],
        }],
        Sync::Lazy,
    )
    .unwrap();
    let job = wal.begin().unwrap().unwrap();
    assert!(!job.syncs());
    assert!(wal.begin().unwrap().is_none(), "one job at a time");
    let progress = wal.finish(job.run()).unwrap();
    assert_eq!((progress.written, progress.durable), (Lsn(1), Lsn(0)));
    assert!(wal.begin().unwrap().is_none());
    let job = wal.begin_sync().unwrap().unwrap();
    assert!(job.syncs());
    assert_eq!(wal.finish(job.run()).unwrap().durable, Lsn(1));
    assert!(wal.begin_sync().unwrap().is_none());
}
