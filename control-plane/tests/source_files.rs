//! The manifests directory as it is used: a real directory, real inotify, edits by the ways editors and tools make them.
//! What follows from contents is tested in `source/files/`; here, that every edit is seen, soon, and whole.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::symlink;
use std::path::Path;
use std::time::{Duration, Instant};

use tokio::sync::mpsc::Receiver;
use weft_control_plane::model::Object;
use weft_control_plane::source::Edit;
use weft_control_plane::source::files::{FilesError, watch};

/// An edit is due within 200 ms on a quiet machine; tests share theirs.
const SOON: Duration = Duration::from_secs(1);

fn service(name: &str, port: u16) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{ports: [{{port: {port}}}]}}\n")
}

async fn next(edits: &mut Receiver<Edit>) -> Edit {
    tokio::time::timeout(Duration::from_secs(10), edits.recv()).await.expect("an edit in time").expect("a watcher")
}

/// The next edit, which has to come soon.
async fn soon(edits: &mut Receiver<Edit>) -> Edit {
    let start = Instant::now();
    let edit = next(edits).await;
    let took = start.elapsed();
    assert!(took < SOON, "took {took:?}");
    edit
}

/// `name:port` of what came, `-name` of what went.
fn changes(edit: &Edit) -> Vec<String> {
    let upserts = edit.objects.upserts.iter().map(|object| match object {
        Object::Service(service) => format!("{}:{}", service.meta.name.name, service.ports[0].port),
        other => format!("{other:?}"),
    });
    let removes = edit.objects.removes.iter().map(|key| format!("-{}", key.name.name));
    upserts.chain(removes).collect()
}

async fn start(directory: &Path) -> Receiver<Edit> {
    let mut edits = watch(directory).expect("a directory");
    next(&mut edits).await;
    edits
}

#[tokio::test]
async fn the_first_edit_is_all_there_is_and_comes_even_if_that_is_nothing() {
    let directory = tempfile::tempdir().unwrap();
    assert_eq!(next(&mut watch(directory.path()).unwrap()).await, Edit::default());
    fs::write(directory.path().join("a.yaml"), service("a", 1)).unwrap();
    fs::create_dir(directory.path().join("sub")).unwrap();
    fs::write(directory.path().join("sub/b.yml"), service("b", 2)).unwrap();
    fs::write(directory.path().join(".hidden.yaml"), service("hidden", 3)).unwrap();
    fs::write(directory.path().join("notes.txt"), service("notes", 4)).unwrap();
    assert_eq!(changes(&next(&mut watch(directory.path()).unwrap()).await), ["a:1", "b:2"]);
    assert!(matches!(watch(directory.path().join("none")), Err(FilesError::Directory { .. })));
}

#[tokio::test]
async fn every_way_of_editing_is_seen_soon() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", 1)).unwrap();
    let mut edits = start(directory.path()).await;

    // Truncated and written in place, as `>` and many editors do.
    fs::write(path("a.yaml"), service("a", 2)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:2"]);
    // Again, with the same size and perhaps within one tick of the file system's clock.
    fs::write(path("a.yaml"), service("a", 3)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:3"]);
    // Written beside and renamed over, as other editors do.
    fs::write(path(".a.yaml.swp"), service("a", 4)).unwrap();
    fs::rename(path(".a.yaml.swp"), path("a.yaml")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:4"]);
    // A file moved in from elsewhere.
    let elsewhere = tempfile::tempdir_in(directory.path().parent().unwrap()).unwrap();
    fs::write(elsewhere.path().join("b.yaml"), service("b", 1)).unwrap();
    fs::rename(elsewhere.path().join("b.yaml"), path("b.yaml")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["b:1"]);
    // Renamed: only its age changes.
    fs::rename(path("b.yaml"), path("c.yaml")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["b:1"]);
    // Renamed to something that is no manifest, and back.
    fs::rename(path("c.yaml"), path("c.yaml.off")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["-b"]);
    fs::rename(path("c.yaml.off"), path("c.yaml")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["b:1"]);
    fs::remove_file(path("c.yaml")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["-b"]);
}

#[tokio::test]
async fn new_directories_are_watched_and_those_that_go_take_their_objects_along() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    let mut edits = start(directory.path()).await;
    fs::create_dir_all(path("x/y")).unwrap();
    fs::write(path("x/y/a.yaml"), service("a", 1)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:1"]);
    fs::write(path("x/y/a.yaml"), service("a", 2)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:2"]);
    fs::rename(path("x"), path("z")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:2"]);
    fs::write(path("z/y/a.yaml"), service("a", 3)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:3"]);
    fs::remove_dir_all(path("z")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["-a"]);
    // The same name again is another directory.
    fs::create_dir_all(path("z/y")).unwrap();
    fs::write(path("z/y/a.yaml"), service("a", 4)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:4"]);
    fs::write(path("z/y/a.yaml"), service("a", 5)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:5"]);
}

#[tokio::test]
async fn a_half_written_file_counts_only_when_it_is_closed() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, format!("{}---\n{}", service("a", 1), service("b", 1))).unwrap();
    let mut edits = start(directory.path()).await;

    let mut file = File::create(&path).unwrap();
    file.write_all(service("a", 2).as_bytes()).unwrap();
    file.flush().unwrap();
    // Meanwhile another file is edited, and does not wait.
    fs::write(directory.path().join("c.yaml"), service("c", 1)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["c:1"]);
    file.write_all(format!("---\n{}", service("b", 2)).as_bytes()).unwrap();
    drop(file);
    // In one stroke, and `b` was never gone.
    assert_eq!(changes(&soon(&mut edits).await), ["a:2", "b:2"]);
}

#[tokio::test]
async fn a_file_never_closed_counts_after_a_second() {
    let directory = tempfile::tempdir().unwrap();
    let mut edits = start(directory.path()).await;
    let mut file = File::create(directory.path().join("a.yaml")).unwrap();
    file.write_all(service("a", 1).as_bytes()).unwrap();
    assert_eq!(changes(&next(&mut edits).await), ["a:1"]);
    drop(file);
}

#[tokio::test]
async fn files_that_come_together_are_one_edit() {
    let parent = tempfile::tempdir().unwrap();
    let (root, aside) = (parent.path().join("manifests"), parent.path().join("aside"));
    fs::create_dir(&root).unwrap();
    fs::create_dir(&aside).unwrap();
    let mut edits = start(&root).await;
    for name in ["a", "b", "c", "d"] {
        fs::write(aside.join(format!("{name}.yaml")), service(name, 1)).unwrap();
    }
    fs::rename(&aside, root.join("app")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:1", "b:1", "c:1", "d:1"]);
}

#[tokio::test]
async fn an_edit_takes_less_than_200_ms_as_a_rule() {
    let directory = tempfile::tempdir().unwrap();
    let mut edits = start(directory.path()).await;
    let mut took = Vec::new();
    for port in 1..=9 {
        fs::write(directory.path().join("a.yaml"), service("a", port)).unwrap();
        let start = Instant::now();
        next(&mut edits).await;
        took.push(start.elapsed());
    }
    took.sort();
    // The median: the machine is shared with other tests.
    assert!(took[took.len() / 2] < Duration::from_millis(200), "{took:?}");
}

#[tokio::test]
async fn a_mounted_config_map_is_followed_through_its_links() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    // As the kubelet lays it out, and updates it.
    fs::create_dir(path("..2026_01")).unwrap();
    fs::write(path("..2026_01/a.yaml"), service("a", 1)).unwrap();
    fs::write(path("..2026_01/b.yaml"), service("b", 1)).unwrap();
    symlink("..2026_01", path("..data")).unwrap();
    symlink("..data/a.yaml", path("a.yaml")).unwrap();
    symlink("..data/b.yaml", path("b.yaml")).unwrap();
    let mut edits = watch(directory.path()).unwrap();
    assert_eq!(changes(&next(&mut edits).await), ["a:1", "b:1"]);

    fs::create_dir(path("..2026_02")).unwrap();
    fs::write(path("..2026_02/a.yaml"), service("a", 2)).unwrap();
    fs::write(path("..2026_02/b.yaml"), service("b", 2)).unwrap();
    symlink("..2026_02", path("..data_tmp")).unwrap();
    fs::rename(path("..data_tmp"), path("..data")).unwrap();
    fs::remove_dir_all(path("..2026_01")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:2", "b:2"]);
}

#[tokio::test]
async fn a_file_behind_a_link_to_elsewhere_is_watched_there() {
    let directory = tempfile::tempdir().unwrap();
    let elsewhere = tempfile::tempdir().unwrap();
    let target = elsewhere.path().join("real.yaml");
    fs::write(&target, service("a", 1)).unwrap();
    symlink(&target, directory.path().join("a.yaml")).unwrap();
    let mut edits = start(directory.path()).await;
    fs::write(&target, service("a", 2)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:2"]);
    // A link that leads nowhere is a file that cannot be read: what it gave stays.
    fs::remove_file(&target).unwrap();
    let edit = soon(&mut edits).await;
    assert_eq!((changes(&edit).len(), edit.problems.len()), (0, 1), "{edit:?}");
    fs::remove_file(directory.path().join("a.yaml")).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["-a"]);
}

#[tokio::test]
async fn a_directory_that_goes_keeps_what_it_gave_and_is_found_again() {
    let parent = tempfile::tempdir().unwrap();
    let root = parent.path().join("manifests");
    fs::create_dir(&root).unwrap();
    fs::write(root.join("a.yaml"), service("a", 1)).unwrap();
    let mut edits = start(&root).await;
    fs::rename(&root, parent.path().join("away")).unwrap();
    let edit = next(&mut edits).await;
    assert_eq!((changes(&edit).len(), edit.problems.len()), (0, 1), "{edit:?}");
    fs::create_dir(parent.path().join("new")).unwrap();
    fs::write(parent.path().join("new/a.yaml"), service("a", 2)).unwrap();
    fs::rename(parent.path().join("new"), &root).unwrap();
    // By the poll: nobody tells of a directory that is not watched yet.
    let edit = next(&mut edits).await;
    assert_eq!((changes(&edit), edit.problems.len()), (vec!["a:2".to_owned()], 0));
    fs::write(root.join("a.yaml"), service("a", 3)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["a:3"]);
}

#[tokio::test]
async fn what_is_not_text_is_named_and_costs_nothing_else() {
    let directory = tempfile::tempdir().unwrap();
    let path = |name: &str| directory.path().join(name);
    fs::write(path("a.yaml"), service("a", 1)).unwrap();
    fs::write(path("b.yaml"), service("b", 1)).unwrap();
    let mut edits = start(directory.path()).await;
    fs::write(path("a.yaml"), b"kind: Service\nmetadata: \xff\n").unwrap();
    let edit = soon(&mut edits).await;
    assert_eq!(changes(&edit), [""; 0]);
    assert_eq!(edit.problems[0].to_string(), "a.yaml: is not UTF-8 text (line 2)");
    fs::write(path("b.yaml"), service("b", 2)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["b:2"]);
    fs::write(path("a.yaml"), service("a", 2)).unwrap();
    let edit = soon(&mut edits).await;
    assert_eq!((changes(&edit), edit.problems.len()), (vec!["a:2".to_owned()], 0));
}

#[tokio::test]
async fn an_edit_that_changes_nothing_is_no_edit() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("a.yaml");
    fs::write(&path, service("a", 1)).unwrap();
    let mut edits = start(directory.path()).await;
    fs::write(&path, format!("# a comment\n{}", service("a", 1))).unwrap();
    let quiet = tokio::time::timeout(Duration::from_millis(300), edits.recv()).await;
    assert!(quiet.is_err(), "{quiet:?}");
    fs::write(directory.path().join("z.yaml"), service("z", 1)).unwrap();
    assert_eq!(changes(&soon(&mut edits).await), ["z:1"]);
}
