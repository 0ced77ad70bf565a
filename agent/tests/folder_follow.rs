//! A followed folder: what is edited, replaced, broken, deleted and mounted is what comes out.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/source_events.rs"]
mod source_events;
#[path = "support/source_state.rs"]
mod source_state;

use std::{
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use sockline::{
    model::object::{InputError, Kind, ObjectName, ObjectRef},
    source::{
        Completeness, Event, Sourced,
        manifests::{
            file::Manifest,
            folder::{File, FolderContents},
            follow::follow,
        },
    },
};
use source_events::SourceEvents;
use source_state::SourceState;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};

/// Each line of a file is a service's name and a mark; `!` is a document that does not parse.
fn read(dir: &Path) -> FolderContents {
    let mut files = Vec::new();
    let Ok(entries) = fs::read_dir(dir) else { return FolderContents::default() };
    for path in entries.map(|entry| entry.unwrap().path()) {
        let name = path.file_name().unwrap().to_str().unwrap().to_owned();
        if !name.ends_with(".yaml") {
            continue;
        }
        let (objects, broken) = match fs::read_to_string(&path) {
            Ok(text) => parse(&text),
            Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
            Err(_) => (vec![], true),
        };
        let input_errors = if broken { vec![input_error(&format!("file {name}"))] } else { vec![] };
        files.push(File { name, manifest: Manifest { objects, input_errors, incomplete: broken } });
    }
    files.sort_by(|a, b| a.name.cmp(&b.name));
    FolderContents { files }
}

fn parse(text: &str) -> (Vec<Sourced>, bool) {
    let whole = text.lines().filter(|line| *line != "!");
    let objects = whole.map(|line| {
        let (name, mark) = line.split_once(' ').unwrap();
        let reference = ObjectRef { kind: Kind::Service, name: ObjectName::new("shop", name) };
        Sourced { reference, object: None, service: None, input_errors: vec![input_error(mark)] }
    });
    (objects.collect(), text.lines().any(|line| line == "!"))
}

fn input_error(object: &str) -> InputError {
    InputError { object: object.to_owned().into(), field: String::new(), message: String::new() }
}

struct Followed {
    source: SourceEvents,
    dir: PathBuf,
    stop: DropGuard,
    _parent: TempDir,
}

impl Followed {
    /// Follows a folder that does not exist yet.
    fn missing() -> Self {
        let parent = tempfile::tempdir().unwrap();
        let dir = parent.path().join("manifests");
        let (sender, events) = mpsc::channel(64);
        let stop = CancellationToken::new();
        tokio::spawn(follow(dir.clone(), read, sender, stop.clone()));
        Self { source: SourceEvents::new(events), dir, stop: stop.drop_guard(), _parent: parent }
    }

    /// Follows a folder with these files, and has seen them.
    async fn with(files: &[(&str, &str)]) -> Self {
        let mut this = Self::missing();
        // Filled aside and put in place at once, so that the first list is the whole.
        let aside = this.dir.with_extension("aside");
        fs::create_dir(&aside).unwrap();
        for (name, text) in files {
            fs::write(aside.join(name), text).unwrap();
        }
        fs::rename(aside, &this.dir).unwrap();
        this.source.until_listed().await;
        this.quiet().await;
        this
    }

    fn write(&self, name: &str, text: &str) {
        fs::write(self.dir.join(name), text).unwrap();
    }

    fn marks(state: &SourceState) -> Vec<String> {
        let mark = |object: &Sourced| object.input_errors[0].object.to_string();
        let of = |object: &Sourced| format!("{} {}", object.reference.name.name, mark(object));
        state.objects.values().map(of).collect()
    }

    async fn until(&mut self, expected: &[&str]) {
        let what = format!("{expected:?}");
        self.source.until(&what, |state| Self::marks(state) == expected).await;
    }

    async fn until_source_error(&mut self, about: &str) {
        self.source.until(about, |state| state.error_text().contains(about)).await;
    }

    async fn quiet(&mut self) {
        self.source.until("end of the errors", |state| state.errors.is_empty()).await;
    }
}

#[tokio::test]
async fn the_first_events_list_every_kind() {
    let followed = Followed::with(&[("a.yaml", "cart 1"), ("b.yaml", "web 1")]).await;
    let lists = followed.source.log.iter().filter(|event| matches!(event, Event::Replace(..)));
    assert_eq!(lists.count(), Kind::ALL.len(), "{:?}", followed.source.log);
    assert_eq!(Followed::marks(&followed.source), ["cart 1", "web 1"]);
}

#[tokio::test]
async fn a_list_that_is_not_whole_is_said_to_be_so_before_it_and_no_more_after_the_whole_one() {
    let mut followed = Followed::missing();
    let aside = followed.dir.with_extension("aside");
    fs::create_dir(&aside).unwrap();
    fs::write(aside.join("a.yaml"), "!").unwrap();
    fs::rename(aside, &followed.dir).unwrap();
    followed.source.until_listed().await;
    assert!(followed.source.completeness == Completeness::Incomplete, "{:?}", followed.source.log);
    followed.write("a.yaml", "cart 1");
    followed.source.until("end of it", |state| state.completeness == Completeness::Complete).await;
    assert_eq!(Followed::marks(&followed.source), ["cart 1"]);
}

#[tokio::test]
async fn a_missing_folder_is_reported_and_nothing_is_listed_until_it_is_there() {
    let mut followed = Followed::missing();
    followed.until_source_error("manifests: cannot be read").await;
    assert!(followed.source.listed.is_empty(), "{:?}", followed.source.log);
    fs::create_dir(&followed.dir).unwrap();
    followed.source.until_listed().await;
    followed.quiet().await;
}

#[tokio::test]
async fn an_edit_in_place_touches_only_what_it_changes() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1\nweb 1")]).await;
    let before = followed.source.log.len();
    followed.write("a.yaml", "cart 2\nweb 1");
    followed.until(&["cart 2", "web 1"]).await;
    // The truncated file may be seen between opening and writing it; the other edits are atomic.
    for event in &followed.source.log[before..] {
        assert!(!matches!(event, Event::Replace(..)), "{event:?}");
    }
}

#[tokio::test]
async fn a_file_renamed_over_another_is_one_change() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1\nweb 1")]).await;
    let before = followed.source.log.len();
    followed.write("a.yaml.swp", "cart 2\nweb 1");
    fs::rename(followed.dir.join("a.yaml.swp"), followed.dir.join("a.yaml")).unwrap();
    followed.until(&["cart 2", "web 1"]).await;
    assert_eq!(followed.source.log.len(), before + 1, "{:?}", followed.source.log);
}

#[tokio::test]
async fn all_that_changed_in_a_file_is_sent_together() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1\nweb 1\ndb 1")]).await;
    let before = followed.source.changes;
    followed.write("a.yaml.swp", "cart 2\nweb 2\ncache 1");
    fs::rename(followed.dir.join("a.yaml.swp"), followed.dir.join("a.yaml")).unwrap();
    followed.until(&["cache 1", "cart 2", "web 2"]).await;
    assert_eq!(followed.source.changes, before + 1, "{:?}", followed.source.log);
}

#[tokio::test]
async fn new_and_deleted_files_are_followed() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1")]).await;
    followed.write("b.yaml", "web 1");
    followed.until(&["cart 1", "web 1"]).await;
    fs::remove_file(followed.dir.join("a.yaml")).unwrap();
    followed.until(&["web 1"]).await;
}

#[tokio::test]
async fn a_broken_file_keeps_its_objects_until_it_is_whole() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1\nweb 1")]).await;
    let broken = followed.dir.join("a.yaml.new");
    fs::write(&broken, "!\nweb 2").unwrap();
    fs::rename(broken, followed.dir.join("a.yaml")).unwrap();
    followed.until(&["cart 1", "web 2"]).await;
    followed.until_source_error("file a.yaml: is not whole; 1 of its objects").await;
    followed.write("a.yaml", "web 3");
    followed.until(&["web 3"]).await;
    followed.quiet().await;
}

/// A link to itself cannot be opened by anyone, root included, and is not ENOENT.
#[tokio::test]
async fn an_unreadable_file_keeps_its_objects() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1")]).await;
    let (link, path) = (followed.dir.join("a.yaml.new"), followed.dir.join("a.yaml"));
    symlink("a.yaml", &link).unwrap();
    fs::rename(link, &path).unwrap();
    followed.until_source_error("file a.yaml: is not whole; 1 of its objects").await;
    assert_eq!(Followed::marks(&followed.source), ["cart 1"]);
    fs::remove_file(&path).unwrap();
    followed.until(&[]).await;
    followed.quiet().await;
}

#[tokio::test]
async fn a_folder_that_disappears_takes_nothing_with_it_and_is_followed_again() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1\nweb 1")]).await;
    let away = followed.dir.with_extension("away");
    fs::rename(&followed.dir, &away).unwrap();
    followed.until_source_error("its 2 objects stay").await;
    assert_eq!(followed.source.errors.len(), 1, "{}", followed.source.error_text());
    assert_eq!(Followed::marks(&followed.source), ["cart 1", "web 1"]);

    fs::write(away.join("a.yaml"), "cart 2").unwrap();
    fs::rename(&away, &followed.dir).unwrap();
    followed.until(&["cart 2"]).await;
    followed.quiet().await;
    followed.write("b.yaml", "web 2");
    followed.until(&["cart 2", "web 2"]).await;
}

#[tokio::test]
async fn a_folder_removed_file_by_file_takes_nothing_with_it() {
    let mut followed = Followed::with(&[("a.yaml", "cart 1"), ("b.yaml", "web 1")]).await;
    fs::remove_dir_all(&followed.dir).unwrap();
    followed.until_source_error("its 2 objects stay").await;
    assert_eq!(Followed::marks(&followed.source), ["cart 1", "web 1"]);
}

/// A ConfigMap mount: `a.yaml -> ..data/a.yaml`, `..data -> ..v1`, and an update renames a new
/// `..data` over the old one.
#[tokio::test]
async fn a_config_map_mount_changes_by_a_symlink_swap() {
    let mut followed = Followed::with(&[]).await;
    let dir = followed.dir.clone();
    let version = |name: &str, text: &str| {
        fs::create_dir(dir.join(name)).unwrap();
        fs::write(dir.join(name).join("a.yaml"), text).unwrap();
        symlink(name, dir.join("..data_tmp")).unwrap();
        fs::rename(dir.join("..data_tmp"), dir.join("..data")).unwrap();
    };
    version("..v1", "cart 1");
    symlink("..data/a.yaml", dir.join("a.yaml")).unwrap();
    followed.until(&["cart 1"]).await;
    version("..v2", "cart 2");
    followed.until(&["cart 2"]).await;
    fs::remove_dir_all(dir.join("..v1")).unwrap();
    version("..v3", "cart 3\nweb 1");
    followed.until(&["cart 3", "web 1"]).await;
}

#[tokio::test]
async fn a_folder_that_is_itself_a_swapped_link_is_followed_to_the_new_one() {
    let mut followed = Followed::missing();
    let (one, two) = (followed.dir.with_extension("1"), followed.dir.with_extension("2"));
    for (dir, text) in [(&one, "cart 1"), (&two, "cart 2")] {
        fs::create_dir(dir).unwrap();
        fs::write(dir.join("a.yaml"), text).unwrap();
    }
    symlink(&one, &followed.dir).unwrap();
    followed.until(&["cart 1"]).await;
    let next = followed.dir.with_extension("next");
    symlink(&two, &next).unwrap();
    fs::rename(next, &followed.dir).unwrap();
    followed.until(&["cart 2"]).await;
    fs::write(two.join("a.yaml"), "cart 3").unwrap();
    followed.until(&["cart 3"]).await;
}

#[tokio::test]
async fn stopping_ends_the_following() {
    let mut followed = Followed::with(&[]).await;
    drop(followed.stop);
    followed.source.until_end().await;
}
