//! What `make` promises of its files, and that tars are walked as ImageNet lays them out.

use std::collections::HashSet;
use std::fs;
use std::path::Path;

use indicatif::ProgressBar;

use super::source::{Body, walk};
use super::{MANIFEST, Made, MakeArgs, make};
use crate::files::list_tree;

/// Small images need only narrow strips, which are quick to encode in a debug build.
fn small(folder: &Path, images: usize, seed: u64, threads: usize) -> MakeArgs {
    let (min, mean, max) = (10_000, 15_000, 22_000);
    MakeArgs { threads, min, mean, max, ..MakeArgs::new(folder, images, 10, seed) }
}

fn made(folder: &Path, images: usize, seed: u64, threads: usize) -> Made {
    make(&small(folder, images, seed, threads), &ProgressBar::hidden()).expect("made")
}

fn contents(folder: &Path) -> Vec<(String, Vec<u8>)> {
    let name = |path: &Path| path.strip_prefix(folder).expect("below").display().to_string();
    let files = list_tree(folder).expect("listed");
    files.iter().map(|path| (name(path), fs::read(path).expect("read"))).collect()
}

#[test]
fn two_hundred_images_decode_are_distinct_and_have_the_sizes_promised() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let args = MakeArgs::new(folder.path(), 200, 10, 1);
    make(&args, &ProgressBar::hidden()).expect("made");
    let files = contents(folder.path());
    assert_eq!(files.len(), 200);
    let sizes: Vec<usize> = files.iter().map(|(_, bytes)| bytes.len()).collect();
    assert!(sizes.iter().all(|size| (20_000..=400_000).contains(size)));
    let mean = sizes.iter().sum::<usize>() / 200;
    assert!((95_000..=125_000).contains(&mean), "mean {mean}");
    assert!(sizes.iter().any(|size| *size > 150_000) && sizes.iter().any(|size| *size < 70_000));
    let distinct: HashSet<&Vec<u8>> = files.iter().map(|(_, bytes)| bytes).collect();
    assert_eq!(distinct.len(), 200);
    for (name, bytes) in &files {
        let (width, height) = crate::jpeg::verify(bytes).expect(name);
        assert!((200..=1100).contains(&width) && height >= 64, "{name}: {width} x {height}");
    }
}

#[test]
fn the_same_seed_gives_the_same_bytes_whatever_the_threads_and_resumes() {
    let folders = [(); 3].map(|()| tempfile::tempdir().expect("temporary folder"));
    made(folders[0].path(), 40, 5, 1);
    made(folders[1].path(), 40, 5, 2);
    made(folders[2].path(), 40, 6, 2);
    let first = contents(folders[0].path());
    assert!(first == contents(folders[1].path()), "threads must not matter");
    assert!(first != contents(folders[2].path()), "seeds must matter");
    // An interrupted run: some files are gone, one is torn, and the manifest is not final.
    let files = list_tree(folders[1].path()).expect("listed");
    fs::remove_file(&files[3]).expect("removed");
    fs::write(&files[9], b"torn").expect("written");
    let manifest = folders[1].path().join(MANIFEST);
    let text = fs::read_to_string(&manifest).expect("read");
    fs::write(&manifest, text.replace("\"complete\": true", "\"complete\": false"))
        .expect("written");
    assert_eq!(made(folders[1].path(), 40, 5, 2).kept, 38);
    assert!(first == contents(folders[1].path()), "it must be mended");
    assert_eq!(made(folders[1].path(), 40, 5, 2).kept, 40);
    let other = small(folders[1].path(), 41, 5, 2);
    let error = make(&other, &ProgressBar::hidden()).expect_err("must refuse").to_string();
    assert!(error.contains("other parameters"), "{error}");
}

fn tar_of(entries: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut builder = tar::Builder::new(Vec::new());
    for (name, bytes) in entries {
        let mut header = tar::Header::new_gnu();
        header.set_size(bytes.len() as u64);
        header.set_mode(0o644);
        builder.append_data(&mut header, name, bytes.as_slice()).expect("appended");
    }
    builder.into_inner().expect("finished")
}

fn keys(source: &Path, map: Option<&Path>) -> anyhow::Result<Vec<(String, Vec<u8>)>> {
    let mut found = Vec::new();
    walk(source, map, &|key, _| !key.ends_with("skip.JPEG"), &mut |item| {
        let Body::Memory(bytes) = item.body else { panic!("a tar has no files") };
        found.push((item.key, bytes));
        true
    })?;
    Ok(found)
}

#[test]
fn imagenets_tars_become_class_folders() {
    let folder = tempfile::tempdir().expect("temporary folder");
    let (train, val) = (folder.path().join("train.tar"), folder.path().join("val.tar"));
    let class = tar_of(&[("n1_7.JPEG", b"seven".to_vec()), ("n1_skip.JPEG", b"known".to_vec())]);
    fs::write(&train, tar_of(&[("n1.tar", class), ("n2.tar", tar_of(&[("n2_1.JPEG", vec![9])]))]))
        .expect("written");
    let expected = [
        ("train/n1/n1_7.JPEG".to_owned(), b"seven".to_vec()),
        ("train/n1/n1_skip.JPEG".to_owned(), vec![]),
        ("train/n2/n2_1.JPEG".to_owned(), vec![9]),
    ];
    assert_eq!(keys(&train, None).expect("walked"), expected);

    fs::write(&val, tar_of(&[("ILSVRC2012_val_00000001.JPEG", vec![1, 2])])).expect("written");
    let map = folder.path().join("map.txt");
    fs::write(&map, "ILSVRC2012_val_00000001.JPEG n01751748\n").expect("written");
    let expected = [("val/n01751748/ILSVRC2012_val_00000001.JPEG".to_owned(), vec![1, 2])];
    assert_eq!(keys(&val, Some(&map)).expect("walked"), expected);

    let error = format!("{:#}", keys(&val, None).expect_err("no class tars"));
    assert!(error.contains("--val-map"), "{error}");
    let torn = fs::read(&train).expect("read");
    fs::write(&train, &torn[..700]).expect("written");
    assert!(keys(&train, None).is_err(), "a torn tar is an error");
}

#[test]
fn put_uploads_what_is_missing_and_accounts_for_all() {
    let (from, to) = (tempfile::tempdir().expect("folder"), tempfile::tempdir().expect("folder"));
    made(from.path(), 12, 3, 1);
    let args = super::PutArgs {
        source: from.path().to_owned(),
        url: format!("file://{}", to.path().display()),
        endpoint: None,
        parallel: 4,
        val_map: None,
        json: false,
    };
    let bar = ProgressBar::hidden();
    let first = super::put(&args, &bar).expect("put");
    assert_eq!((first.files, first.uploaded, first.skipped, first.failed), (12, 12, 0, 0));
    assert!(contents(from.path()) == contents(to.path()));
    fs::remove_file(&list_tree(to.path()).expect("listed")[4]).expect("removed");
    let second = super::put(&args, &bar).expect("put");
    assert_eq!((second.files, second.uploaded, second.skipped, second.failed), (12, 1, 11, 0));
    assert!(contents(from.path()) == contents(to.path()));
}
