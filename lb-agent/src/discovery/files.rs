//! A folder of manifests: which files there are, what each last said that was in order, and what is wrong with them now.
//!
//! A file that is not in order keeps what it said before; so does a whole folder that cannot be read. Everything else goes on.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use super::{Objects, Origin, Problem, read::read};

/// What was read of a folder: each manifest's text, or why it could not be read.
pub type Snapshot = Result<BTreeMap<PathBuf, Result<String, String>>, String>;

/// Reads every manifest of a folder: `*.yaml`, `*.yml` and `*.json`, without hidden ones (the `..data` of a mounted ConfigMap).
pub fn read_folder(folder: &Path) -> Snapshot {
    let entries = fs::read_dir(folder).map_err(|error| error.to_string())?;
    let mut texts = BTreeMap::new();
    for entry in entries {
        let path = entry.map_err(|error| error.to_string())?.path();
        if is_manifest(&path) {
            let text = fs::read_to_string(&path).map_err(|error| explain(&error));
            texts.insert(path, text);
        }
    }
    Ok(texts)
}

fn is_manifest(path: &Path) -> bool {
    let hidden = path.file_name().is_none_or(|name| name.as_encoded_bytes().starts_with(b"."));
    let named = path.extension().is_some_and(|e| ["yaml", "yml", "json"].iter().any(|known| e == *known));
    named && !hidden && !path.is_dir()
}

fn explain(error: &io::Error) -> String {
    match error.kind() {
        io::ErrorKind::InvalidData => "the file is not UTF-8 text".into(),
        _ => error.to_string(),
    }
}

/// A file as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
struct FileState {
    /// What was read last, or why it could not be read.
    read: Option<Result<String, String>>,
    /// What it last said that was in order.
    good: Option<Objects>,
    /// What is wrong with what was read last.
    problems: Vec<Problem>,
}

/// A folder as it stands.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Folder {
    files: BTreeMap<PathBuf, FileState>,
    missing: Option<Problem>,
}

impl Folder {
    /// Takes in what was read. Returns whether objects or problems are other than before.
    pub fn update(&mut self, folder: &Path, snapshot: Snapshot) -> bool {
        let texts = match snapshot {
            Err(cause) => return self.lost(folder, cause),
            Ok(texts) => texts,
        };
        let found_again = self.missing.take().is_some();
        let before = self.files.len();
        self.files.retain(|path, _| texts.contains_key(path));
        let mut changed = found_again || self.files.len() != before;
        for (path, text) in texts {
            let state = self.files.entry(path.clone()).or_default();
            if state.read.as_ref() != Some(&text) {
                state.take_in(&path, text);
                changed = true;
            }
        }
        changed
    }

    fn lost(&mut self, folder: &Path, cause: String) -> bool {
        let problem = Problem {
            origin: Origin::file(folder, 0),
            cause: format!("the folder of manifests cannot be read: {cause}"),
            remedy: "bring it back; what it held stays in force until then".into(),
            ..Problem::default()
        };
        self.missing.replace(problem.clone()).is_none_or(|known| known != problem)
    }

    /// All objects in force.
    pub fn objects(&self) -> Objects {
        let mut objects = Objects::default();
        for good in self.files.values().filter_map(|file| file.good.as_ref()) {
            objects.extend(good.clone());
        }
        objects
    }

    /// All that is wrong.
    pub fn problems(&self) -> Vec<Problem> {
        self.missing.iter().chain(self.files.values().flat_map(|file| &file.problems)).cloned().collect()
    }

    /// Whether all that should be known is known. If not (a file was never in order, or there never was a folder), what is in force
    /// in the kernel and not in the objects may belong to what is not known, and must stay.
    pub fn is_complete(&self) -> bool {
        let lost = self.missing.is_some() && self.files.is_empty();
        !lost && self.files.values().all(|file| file.good.is_some())
    }
}

impl FileState {
    fn take_in(&mut self, path: &Path, text: Result<String, String>) {
        let result = match &text {
            Ok(text) => read(path, text),
            Err(cause) => Err(vec![unreadable(path, cause)]),
        };
        self.read = Some(text);
        match result {
            Ok(objects) => (self.good, self.problems) = (Some(objects), Vec::new()),
            Err(problems) => self.problems = problems,
        }
    }
}

fn unreadable(path: &Path, cause: &str) -> Problem {
    Problem {
        origin: Origin::file(path, 0),
        cause: format!("the file cannot be read: {cause}"),
        remedy: "correct it; what it said before stays in force".into(),
        ..Problem::default()
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn service(name: &str) -> String {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\nspec: {{clusterIP: 10.96.0.1, ports: [{{port: 80}}]}}\n"
        )
    }

    fn names(folder: &Folder) -> Vec<String> {
        folder.objects().services.into_iter().map(|s| s.name).collect()
    }

    struct Fixture {
        dir: tempfile::TempDir,
        folder: Folder,
    }

    impl Fixture {
        fn new() -> Self {
            Self { dir: tempfile::tempdir().unwrap(), folder: Folder::default() }
        }

        fn write(&self, name: &str, text: &str) {
            fs::write(self.dir.path().join(name), text).unwrap();
        }

        fn scan(&mut self) -> bool {
            self.folder.update(self.dir.path(), read_folder(self.dir.path()))
        }
    }

    #[test]
    fn manifests_come_and_go() {
        let mut f = Fixture::new();
        f.write("a.yaml", &service("a"));
        f.write("b.yml", &service("b"));
        f.write("c.json", r#"{"apiVersion": "v1", "kind": "Service", "metadata": {"name": "c"}, "spec": {}}"#);
        f.write("readme.txt", "not a manifest");
        f.write(".hidden.yaml", "[");
        fs::create_dir(f.dir.path().join("folder.yaml")).unwrap();
        assert!(f.scan());
        assert_eq!(names(&f.folder), ["a", "b", "c"]);
        assert!(!f.scan(), "nothing has changed");
        fs::remove_file(f.dir.path().join("b.yml")).unwrap();
        assert!(f.scan());
        assert_eq!(names(&f.folder), ["a", "c"]);
        assert!(f.folder.problems().is_empty() && f.folder.is_complete());
    }

    #[test]
    fn a_bad_file_keeps_what_it_said_and_the_others_go_on() {
        let mut f = Fixture::new();
        f.write("a.yaml", &service("a"));
        f.write("b.yaml", &service("b"));
        f.scan();
        f.write("a.yaml", "kind: Service\n  bad: [");
        f.write("b.yaml", &service("b2"));
        assert!(f.scan());
        assert_eq!(names(&f.folder), ["a", "b2"]);
        let problems = f.folder.problems();
        assert_eq!(problems.len(), 1);
        assert_eq!(problems[0].origin, Origin::file(f.dir.path().join("a.yaml"), 2), "{}", problems[0]);
        assert!(f.folder.is_complete());
        f.write("a.yaml", &service("a3"));
        assert!(f.scan());
        assert_eq!(names(&f.folder), ["a3", "b2"]);
        assert!(f.folder.problems().is_empty());
    }

    #[test]
    fn a_file_that_never_was_in_order_is_not_known() {
        let mut f = Fixture::new();
        f.write("a.yaml", "kind: [");
        f.write("b.yaml", &service("b"));
        f.scan();
        assert_eq!(names(&f.folder), ["b"]);
        assert!(!f.folder.is_complete());
    }

    #[test]
    fn a_folder_that_disappears_stays_in_force_until_it_is_back() {
        let mut f = Fixture::new();
        let path = f.dir.path().join("manifests");
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), service("a")).unwrap();
        f.folder.update(&path, read_folder(&path));
        fs::remove_dir_all(&path).unwrap();
        assert!(f.folder.update(&path, read_folder(&path)));
        assert!(!f.folder.update(&path, read_folder(&path)), "the same problem is no news");
        assert_eq!(names(&f.folder), ["a"]);
        assert!(f.folder.problems()[0].to_string().contains("stays in force until then"));
        assert!(f.folder.is_complete());
        fs::create_dir(&path).unwrap();
        fs::write(path.join("a.yaml"), service("again")).unwrap();
        assert!(f.folder.update(&path, read_folder(&path)));
        assert_eq!(names(&f.folder), ["again"]);
        assert!(f.folder.problems().is_empty());
    }

    #[test]
    fn unreadable_files_keep_what_they_said() {
        let mut f = Fixture::new();
        f.write("a.yaml", &service("a"));
        f.scan();
        fs::write(f.dir.path().join("a.yaml"), b"kind: \xff\xfe").unwrap();
        f.scan();
        assert!(f.folder.problems()[0].cause.contains("not UTF-8"));
        fs::remove_file(f.dir.path().join("a.yaml")).unwrap();
        symlink("nowhere", f.dir.path().join("a.yaml")).unwrap();
        f.scan();
        assert!(f.folder.problems()[0].cause.contains("No such file"));
        assert_eq!(names(&f.folder), ["a"]);
    }

    #[test]
    fn a_mounted_config_map_is_read_through_its_links() {
        let mut f = Fixture::new();
        let at = |name: &str| f.dir.path().join(name);
        for (version, name) in [("..v1", "a"), ("..v2", "b")] {
            fs::create_dir(at(version)).unwrap();
            fs::write(at(version).join("s.yaml"), service(name)).unwrap();
        }
        symlink("..v1", at("..data")).unwrap();
        symlink("..data/s.yaml", at("s.yaml")).unwrap();
        f.scan();
        assert_eq!(names(&f.folder), ["a"]);
        let at = |name: &str| f.dir.path().join(name);
        symlink("..v2", at("..data_tmp")).unwrap();
        fs::rename(at("..data_tmp"), at("..data")).unwrap();
        assert!(f.scan());
        assert_eq!(names(&f.folder), ["b"]);
    }
}
