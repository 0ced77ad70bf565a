use super::*;

/// A mounted network namespace; dropping this unmounts it.
struct Mounted(PathBuf);

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = nix::mount::umount(&self.0);
    }
}

#[test]
fn a_namespace_that_cannot_be_entered_counts_once_for_all_its_paths() {
    let folder = tempfile::tempdir().unwrap();
    let paths = ["first", "second", "third"].map(|name| folder.path().join(name));
    // In a new thread, because `unshare` changes the namespace of the calling thread.
    std::thread::scope(|scope| {
        let own = scope.spawn(|| {
            nix::sched::unshare(CloneFlags::CLONE_NEWNET).unwrap();
            paths.clone().map(|path| {
                File::create(&path).unwrap();
                let flags = nix::mount::MsFlags::MS_BIND;
                let this = Path::new("/proc/thread-self/ns/net");
                nix::mount::mount(Some(this), &path, None::<&str>, flags, None::<&str>).unwrap();
                Mounted(path)
            })
        });
        let _mounted = own.join().unwrap();
        let seen = scope.spawn(|| {
            let mut namespaces = Namespaces::new().unwrap();
            for path in &paths {
                let mut refused = || Err(io::Error::other("no"));
                let next = namespaces.visit_one(path, path.clone(), &mut refused).unwrap();
                assert_eq!(next, Next::Continue);
            }
            let coverage = namespaces.coverage();
            assert_eq!(
                (coverage.namespaces, coverage.unseen, coverage.hidden),
                (0, 1, 0),
                "{coverage:?}"
            );
            let why = coverage.why.unwrap();
            assert!(why.ends_with("first: no"), "{why}");
            // One path that works is enough.
            let mut seen = || Ok(Next::Continue);
            namespaces.visit_one(&paths[2], paths[2].clone(), &mut seen).unwrap();
            let coverage = namespaces.coverage();
            assert!(
                coverage.is_complete() && coverage.why.is_none() && coverage.namespaces == 1,
                "{coverage:?}"
            );
        });
        // Before the unmounts.
        seen.join().unwrap();
    });
}

#[test]
fn a_visitor_that_cannot_return_visits_no_other_namespace() {
    let visitor = std::thread::spawn(|| {
        let mut namespaces = Namespaces::new().unwrap();
        // Not a namespace.
        namespaces.own = File::open("/dev/null").unwrap();
        let mut visits = 0;
        let result = namespaces.visit(&mut || {
            visits += 1;
            Ok(Next::Continue)
        });
        (result, visits)
    });
    let (result, visits) = visitor.join().unwrap();
    assert_eq!(
        result.unwrap_err().to_string(),
        "cannot return to the helper's own network namespace"
    );
    assert_eq!(visits, 1);
}

#[test]
fn only_mounts_of_network_namespaces_are_taken() {
    let mounts = table::parse(
        "\
22 28 0:21 / /proc rw shared:13 - proc proc rw
88 25 0:4 net:[4026532201] /run/netns/cni-1 rw shared:44 - nsfs nsfs rw
89 25 0:4 mnt:[4026532202] /run/mnt/x rw - nsfs nsfs rw
90 25 0:4 net:[4026532203] /run/netns/with\\040blank rw - nsfs nsfs rw
",
    );
    let expected = ["/run/netns/cni-1", "/run/netns/with blank"].map(PathBuf::from);
    assert_eq!(network_namespaces(mounts), expected);
}
