//! As much of Thrift's compact protocol as it takes to walk over a structure without building it.
//!
//! Always: every step consumes at least a byte and nesting is bounded, so a walk ends within the bytes it was given.

const DEPTH_MAX: u32 = 16;

pub(super) const I32: u8 = 5;
pub(super) const BINARY: u8 = 8;
pub(super) const LIST: u8 = 9;
pub(super) const STRUCT: u8 = 12;

/// A place in encoded bytes. `None` from any method: they are not what they should be.
#[derive(Debug)]
pub(super) struct Cursor<'a> {
    bytes: &'a [u8],
    place: usize,
}

impl<'a> Cursor<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Cursor<'a> {
        Cursor { bytes, place: 0 }
    }

    /// How many bytes have been walked over.
    pub(super) fn place(&self) -> usize {
        self.place
    }

    /// Walks over one structure. `field` gets each field's id and type, and says whether it has walked over the value.
    pub(super) fn structure(&mut self, mut field: impl FnMut(&mut Self, i16, u8) -> Option<bool>) -> Option<()> {
        let mut id = 0i16;
        loop {
            let head = self.byte()?;
            if head == 0 {
                return Some(());
            }
            let kind = head & 0x0f;
            id = match head >> 4 {
                0 => i16::try_from(self.signed()?).ok()?,
                step => id.checked_add(i16::from(step))?,
            };
            if !field(self, id, kind)? {
                self.skip(kind, 0)?;
            }
        }
    }

    /// The length and element type of a list.
    pub(super) fn list(&mut self) -> Option<(u64, u8)> {
        let head = self.byte()?;
        let length = match head >> 4 {
            15 => self.unsigned()?,
            short => u64::from(short),
        };
        Some((length, head & 0x0f))
    }

    pub(super) fn i32(&mut self) -> Option<i32> {
        i32::try_from(self.signed()?).ok()
    }

    pub(super) fn binary(&mut self) -> Option<&'a [u8]> {
        let length = usize::try_from(self.unsigned()?).ok()?;
        let bytes = self.bytes.get(self.place..self.place.checked_add(length)?)?;
        self.place += length;
        Some(bytes)
    }

    /// Walks over a value that is a field of a structure.
    fn skip(&mut self, kind: u8, depth: u32) -> Option<()> {
        if depth > DEPTH_MAX {
            return None;
        }
        match kind {
            1 | 2 => {} // a truth value is in the field's type
            3 => drop(self.byte()?),
            4..=6 => drop(self.unsigned()?),
            7 => {
                let end = self.place.checked_add(8).filter(|end| *end <= self.bytes.len())?;
                self.place = end;
            }
            BINARY => drop(self.binary()?),
            LIST | 10 => {
                let (length, element) = self.list()?;
                for _ in 0..length {
                    self.skip_element(element, depth)?;
                }
            }
            11 => {
                let length = self.unsigned()?;
                let kinds = if length > 0 { self.byte()? } else { 0 };
                for _ in 0..length {
                    self.skip_element(kinds >> 4, depth)?;
                    self.skip_element(kinds & 0x0f, depth)?;
                }
            }
            STRUCT => loop {
                let head = self.byte()?;
                if head == 0 {
                    break;
                }
                if head >> 4 == 0 {
                    self.unsigned()?;
                }
                self.skip(head & 0x0f, depth + 1)?;
            },
            _ => return None,
        }
        Some(())
    }

    /// As [`Self::skip`], but in a list a truth value takes a byte.
    fn skip_element(&mut self, kind: u8, depth: u32) -> Option<()> {
        match kind {
            1 | 2 => self.byte().map(drop),
            other => self.skip(other, depth + 1),
        }
    }

    fn byte(&mut self) -> Option<u8> {
        let byte = *self.bytes.get(self.place)?;
        self.place += 1;
        Some(byte)
    }

    fn unsigned(&mut self) -> Option<u64> {
        let mut value = 0u64;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f).checked_shl(shift)?;
            if byte & 0x80 == 0 {
                return Some(value);
            }
        }
        None
    }

    fn signed(&mut self) -> Option<i64> {
        let zigzag = self.unsigned()?;
        Some((zigzag >> 1) as i64 ^ -((zigzag & 1) as i64))
    }
}
