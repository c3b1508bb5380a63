//! A store on a disk that is full.

use std::fs;
use std::io::Write;
use std::path::PathBuf;

use cvs_store::{BlobId, Intake, Store, StoreError};
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::support::{Home, fsck, put_manifest, read_all};

struct SmallDisk(PathBuf);

impl SmallDisk {
    fn new(at: PathBuf) -> Option<Self> {
        fs::create_dir_all(&at).unwrap();
        let mounted = mount(Some("tmpfs"), &at, Some("tmpfs"), MsFlags::empty(), Some("size=4m"));
        match mounted {
            Ok(()) => Some(Self(at)),
            Err(error) if std::env::var_os("CVS_TEST_REQUIRE_FUSE").is_none() => {
                eprintln!("skipped: mounting a small tmpfs needs root ({error})");
                None
            }
            Err(error) => panic!("mounting a small tmpfs: {error}"),
        }
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = umount2(&self.0, MntFlags::MNT_DETACH);
    }
}

#[test]
fn a_full_disk_is_said_and_leaves_the_store_whole() {
    let home = Home::new();
    let Some(disk) = SmallDisk::new(home.outside("disk")) else { return };
    let store = Store::open(&disk.0.join("home")).unwrap();
    let txn = store.begin("fits").unwrap();
    txn.put_bytes(b"content").unwrap();
    let id = put_manifest(&txn, &[("file", b"content")]);
    txn.commit().unwrap();
    drop(txn);

    let source = home.outside("source");
    let size = 8 << 20;
    fs::write(&source, vec![7; size as usize]).unwrap();
    type Fill = fn(&cvs_store::Transaction, &std::path::Path) -> Result<(), StoreError>;
    let ways: [(&str, Fill); 4] = [
        ("copy", |txn, source| txn.put_file(source, Intake::Copy).map(drop)),
        ("move", |txn, source| txn.put_file(source, Intake::Move).map(drop)),
        ("bytes", |txn, source| txn.put_bytes(&fs::read(source).unwrap()).map(drop)),
        ("many", |txn, _| {
            for n in 0..1000u32 {
                txn.put_bytes(&[&n.to_le_bytes()[..], &[0; 9000]].concat())?;
            }
            Ok(())
        }),
    ];
    for (way, fill) in ways {
        let txn = store.begin(way).unwrap();
        let error = fill(&txn, &source).expect_err(way);
        let StoreError::NoSpace { needed, available, .. } = &error else { panic!("{way}: {error}") };
        assert!(*needed > *available, "{way}: {error}");
        assert!(error.is_no_space());
        drop(txn);
    }
    let txn = store.begin("stream").unwrap();
    let mut writer = txn.blob_writer().unwrap();
    let failed = (0..8).find_map(|_| writer.write_all(&vec![1; 1 << 20]).err()).unwrap();
    assert!(StoreError::io("write", "x", failed).is_no_space());
    assert!(writer.finish().is_err(), "what was not written has no id");
    drop(txn);

    assert!(source.exists());
    assert_eq!(fs::read_dir(store.home().join("staging")).unwrap().count(), 0);
    assert!(fsck(&store, false).damage.is_empty());
    read_all(&store, &store.manifest(&id).unwrap()).unwrap();
    assert_eq!(store.blob_size(&BlobId::of(b"content")).unwrap(), Some(7));
}
