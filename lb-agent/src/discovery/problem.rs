//! What is wrong with what a user wrote, in the words that the log, Events and `weir status` show.

use std::{fmt, path::PathBuf};

/// Where an object was read.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub enum Origin {
    /// The API server has it: its kind and name say where.
    #[default]
    Api,
    /// A file.
    File {
        /// The file.
        path: PathBuf,
        /// The line, from 1; 0 if unknown.
        line: u64,
    },
}

impl Origin {
    /// A place in a file.
    pub fn file(path: impl Into<PathBuf>, line: u64) -> Self {
        Self::File { path: path.into(), line }
    }
}

/// `FILE:LINE`, or nothing.
impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Api => Ok(()),
            Self::File { path, line: 0 } => write!(f, "{}", path.display()),
            Self::File { path, line } => write!(f, "{}:{line}", path.display()),
        }
    }
}

/// An object by its kind and name.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Its kind; empty if it names none.
    pub kind: String,
    /// Its namespace.
    pub namespace: String,
    /// Its name; empty if it has none.
    pub name: String,
}

impl ObjectRef {
    /// An object of this kind and name.
    pub fn new(kind: &str, namespace: &str, name: &str) -> Self {
        Self { kind: kind.into(), namespace: namespace.into(), name: name.into() }
    }
}

/// `KIND NAMESPACE/NAME`, as far as it is known.
impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.kind)?;
        if self.name.is_empty() { Ok(()) } else { write!(f, " {}/{}", self.namespace, self.name) }
    }
}

/// One thing that is wrong, and what to do.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// Where.
    pub origin: Origin,
    /// In which object, if it got that far.
    pub object: ObjectRef,
    /// The field, as a path with dots.
    pub field: String,
    /// The value that is wrong.
    pub value: String,
    /// What is wrong with it.
    pub cause: String,
    /// What to do.
    pub remedy: String,
}

impl Problem {
    /// `FIELD: VALUE: CAUSE; REMEDY`, without the parts that are empty: what an Event on the object says.
    pub fn message(&self) -> String {
        let mut text = String::new();
        if !self.field.is_empty() {
            text = format!("{}: ", self.field);
        }
        if !self.value.is_empty() {
            text += &format!("{:?}: ", self.value);
        }
        format!("{text}{}; {}", self.cause, self.remedy)
    }
}

/// `FILE:LINE: KIND NAMESPACE/NAME: FIELD: VALUE: CAUSE; REMEDY`, without the parts that are empty.
impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for part in [self.origin.to_string(), self.object.to_string()] {
            if !part.is_empty() {
                write!(f, "{part}: ")?;
            }
        }
        f.write_str(&self.message())
    }
}

impl std::error::Error for Problem {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn problems_say_what_is_known() {
        let problem = |origin, object| Problem {
            origin,
            object,
            field: "spec.x".into(),
            value: "1".into(),
            cause: "wrong".into(),
            remedy: "use 2".into(),
        };
        let service = || ObjectRef::new("Service", "shop", "web");
        let cases = [
            (problem(Origin::Api, service()), "Service shop/web: spec.x: \"1\": wrong; use 2"),
            (problem(Origin::file("a.yaml", 7), service()), "a.yaml:7: Service shop/web: spec.x: \"1\": wrong; use 2"),
            (problem(Origin::file("a.yaml", 0), ObjectRef::default()), "a.yaml: spec.x: \"1\": wrong; use 2"),
            (problem(Origin::Api, ObjectRef::new("Service", "shop", "")), "Service: spec.x: \"1\": wrong; use 2"),
        ];
        for (problem, wanted) in cases {
            assert_eq!(problem.to_string(), wanted);
        }
        let bare = Problem { cause: "wrong".into(), remedy: "mend it".into(), ..Problem::default() };
        assert_eq!(bare.to_string(), "wrong; mend it");
    }
}
