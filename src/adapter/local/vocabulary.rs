//! The vocabulary: from word pieces to token ids.
//!
//! A table with open addressing over the text of `vocab.txt`, which it borrows. It is built
//! in about a millisecond, needs 400 kB, and answers "which entries are a prefix of this
//! word" while hashing the word once.

/// Marks an entry that continues a word.
const CONTINUATION: &str = "##";
/// Number of slots, about twice the number of entries.
const SLOTS: usize = 1 << 16;

/// Where in a word a piece stands.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Place {
    Start,
    Inside,
}

/// A word piece found in the vocabulary.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    pub id: u16,
    /// Length in bytes, without the continuation mark.
    pub length: usize,
}

pub struct Vocabulary {
    /// One entry per line; the line number is the id.
    text: &'static str,
    /// Where each entry starts, and the end of the text.
    starts: Vec<u32>,
    slots: Box<[Slot]>,
    /// Length of the longest entry in bytes: no longer prefix can match.
    longest: usize,
}

/// An entry's id and a part of its hash; `EMPTY` if there is none.
#[derive(Clone, Copy, PartialEq, Eq)]
struct Slot {
    id: u16,
    tag: u16,
}

const EMPTY: Slot = Slot { id: u16::MAX, tag: u16::MAX };

impl Vocabulary {
    /// Reads a vocabulary of one entry per line, at most 65,535 entries.
    pub fn new(text: &'static str) -> Self {
        let mut vocabulary = Self { text, starts: vec![0], slots: vec![EMPTY; SLOTS].into_boxed_slice(), longest: 0 };
        let mut end = 0;
        for (id, line) in (0..u16::MAX).zip(text.split_inclusive('\n')) {
            end += line.len() as u32;
            vocabulary.starts.push(end);
            let entry = vocabulary.entry(id);
            vocabulary.longest = vocabulary.longest.max(entry.len());
            vocabulary.insert(Hash::EMPTY.with(entry.as_bytes()), id);
        }
        vocabulary
    }

    /// The longest piece that `word` starts with.
    pub fn longest_prefix(&self, word: &str, place: Place) -> Option<Piece> {
        let (mark, mut hash) = match place {
            Place::Start => ("", Hash::EMPTY),
            Place::Inside => (CONTINUATION, Hash::EMPTY.with(CONTINUATION.as_bytes())),
        };
        let mut found = None;
        for (start, c) in word.char_indices() {
            let length = start + c.len_utf8();
            if length > self.longest {
                break;
            }
            let prefix = &word[..length];
            hash = hash.with(&prefix.as_bytes()[start..]);
            let id = self.find(hash, |entry| entry.strip_prefix(mark) == Some(prefix));
            found = id.map(|id| Piece { id, length }).or(found);
        }
        found
    }

    /// The id of a whole entry.
    #[cfg(test)]
    pub fn id(&self, entry: &str) -> Option<u16> {
        self.find(Hash::EMPTY.with(entry.as_bytes()), |other| other == entry)
    }

    fn entry(&self, id: u16) -> &'static str {
        let id = usize::from(id);
        let line = &self.text[self.starts[id] as usize..self.starts[id + 1] as usize];
        line.strip_suffix('\n').unwrap_or(line)
    }

    fn insert(&mut self, hash: Hash, id: u16) {
        let free = hash.slots().find(|&slot| self.slots[slot] == EMPTY);
        if let Some(slot) = free {
            self.slots[slot] = Slot { id, tag: hash.tag() };
        }
    }

    fn find(&self, hash: Hash, is_wanted: impl Fn(&str) -> bool) -> Option<u16> {
        hash.slots()
            .map(|slot| self.slots[slot])
            .take_while(|&slot| slot != EMPTY)
            .find(|slot| slot.tag == hash.tag() && is_wanted(self.entry(slot.id)))
            .map(|slot| slot.id)
    }
}

/// A hash that can be continued byte by byte (the multiplicative hash of rustc).
#[derive(Clone, Copy)]
struct Hash(u64);

impl Hash {
    const EMPTY: Self = Self(0);

    fn with(self, bytes: &[u8]) -> Self {
        const MULTIPLIER: u64 = 0x517c_c1b7_2722_0a95;
        Self(bytes.iter().fold(self.0, |hash, &byte| (hash.rotate_left(5) ^ u64::from(byte)).wrapping_mul(MULTIPLIER)))
    }

    /// Slots to look into, in order: all of them, from a place that depends on the hash.
    fn slots(self) -> impl Iterator<Item = usize> {
        let first = (self.0 >> 48) as usize;
        (0..SLOTS).map(move |step| (first + step) % SLOTS)
    }

    fn tag(self) -> u16 {
        (self.0 >> 32) as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEXT: &str = "[PAD]\nun\nunder\n##der\n##d\nä\nlast";

    fn longest(word: &str, place: Place) -> Option<(u16, usize)> {
        let piece = Vocabulary::new(TEXT).longest_prefix(word, place)?;
        Some((piece.id, piece.length))
    }

    #[test]
    fn every_entry_is_found() {
        let vocabulary = Vocabulary::new(TEXT);
        for (id, entry) in TEXT.lines().enumerate() {
            assert_eq!(vocabulary.id(entry), Some(id as u16));
        }
        assert_eq!(vocabulary.id("unde"), None);
        assert_eq!(vocabulary.id(""), None);
    }

    #[test]
    fn the_longest_piece_wins() {
        assert_eq!(longest("understand", Place::Start), Some((2, 5)));
        assert_eq!(longest("undo", Place::Start), Some((1, 2)));
        assert_eq!(longest("der", Place::Inside), Some((3, 3)));
        assert_eq!(longest("dev", Place::Inside), Some((4, 1)));
        assert_eq!(longest("ärger", Place::Start), Some((5, 2)));
    }

    #[test]
    fn pieces_fit_their_place_only() {
        assert_eq!(longest("der", Place::Start), None);
        assert_eq!(longest("under", Place::Inside), None);
        assert_eq!(longest("", Place::Start), None);
        assert_eq!(longest("##der", Place::Inside), None);
    }
}
