//! What can happen to a file, and what of a node it is done to.

use std::fmt;

/// What of a node is harmed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
pub enum Target {
    /// The segments of the log.
    Log,
    /// The same, and the view is gone: what the log lost is nowhere else on this disk.
    LogAndView,
    /// Keys of the view: orders and payments.
    Entities,
    /// Keys of the view that are computed from them.
    Indexes,
    /// Keys of the view that say how far the node is of every actor.
    Frontier,
}

impl Target {
    pub const ALL: [Target; 5] =
        [Target::Log, Target::LogAndView, Target::Entities, Target::Indexes, Target::Frontier];

    /// Whether files of the log are harmed.
    #[must_use]
    pub fn is_log(self) -> bool {
        matches!(self, Target::Log | Target::LogAndView)
    }

    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Target::Log => "log",
            Target::LogAndView => "log-and-view",
            Target::Entities => "entities",
            Target::Indexes => "indexes",
            Target::Frontier => "frontier",
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

macro_rules! kinds {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// One way to harm a file or what is in it.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, clap::ValueEnum)]
        pub enum Kind {
            $($(#[$doc])* #[value(name = $text)] $name,)*
        }

        impl Kind {
            pub const ALL: &[Kind] = &[$(Kind::$name,)*];

            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Kind::$name => $text,)* }
            }
        }
    };
}

kinds! {
    /// Nothing is harmed: such a start says nothing.
    Control => "control",
    /// One bit in the first bytes of a frame, or of a key.
    FlipHead => "flip-head",
    /// One bit in the middle.
    FlipMiddle => "flip-middle",
    /// One bit in what follows: the last frame, or the key's value.
    FlipTail => "flip-tail",
    /// A byte where checks are kept.
    FlipCheck => "flip-check",
    ZeroSector => "zero-sector",
    ZeroPage => "zero-page",
    ZeroToEnd => "zero-to-end",
    CutOneByte => "cut-one-byte",
    CutHalf => "cut-half",
    /// In the middle of a frame, or of a key.
    CutInFrame => "cut-in-frame",
    /// An empty file of the right name.
    CutToNothing => "cut-to-nothing",
    DeleteFile => "delete-file",
    DeleteFolder => "delete-folder",
    DuplicateBlock => "duplicate-block",
    SwapBlocks => "swap-blocks",
    /// Blocks as they were a while ago: a write that was lost.
    StaleBlock => "stale-block",
    /// The whole file as it was a while ago.
    StaleFile => "stale-file",
    AppendGarbage => "append-garbage",
    GarbagePage => "garbage-page",
    /// Two files have each other's names.
    SwapFiles => "swap-files",
    /// The file of another region's node.
    ForeignFile => "foreign-file",
    /// A folder in the file's place.
    FolderInPlace => "folder-in-place",
    /// The whole folder from last week's backup: of the node, or of its view.
    Backup => "backup",
    /// Through the engine, while the node runs: keys taken out.
    ForgetKeys => "forget-keys",
    /// The same: bits of their values altered.
    AlterKeys => "alter-keys",
    /// The same: their values of a while ago.
    StaleKeys => "stale-keys",
}

impl Kind {
    /// Whether it is done through the engine of a running node rather than to the files of a stopped one.
    #[must_use]
    pub fn by_engine(self) -> bool {
        matches!(self, Kind::ForgetKeys | Kind::AlterKeys | Kind::StaleKeys)
    }

    /// Whether it can be done to `target`: the log has no engine.
    #[must_use]
    pub fn fits(self, target: Target) -> bool {
        !target.is_log() || !self.by_engine()
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twenty_ways_and_more_for_every_target() {
        for target in Target::ALL {
            let kinds = Kind::ALL.iter().filter(|kind| kind.fits(target) && **kind != Kind::Control).count();
            assert!(kinds >= 20, "{target}: {kinds}");
        }
    }
}
