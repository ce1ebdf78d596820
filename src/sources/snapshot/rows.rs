//! Rows as bytes: numbers as varints, texts that repeat by their place in the block's list of texts.
//!
//! # Meaning
//! Clicks of one link share its title, destination and tags, visitors share browsers: within a block each text stands
//! once. Ids and click ids are all different and stand as they are. The form is private to the snapshots and may change
//! with every build, which their label tells apart.
//!
//! # Cost
//! One look-up a text when written; when read, a click's texts are packed into one.

use crate::dataflow::rows::{Arrival, ClickId, Place};
use crate::dataflow::step::Map;
use crate::model::outputs::DeadLetter;
use crate::model::time::Ms;
use crate::model::{ClickView, Form, PackedClick};
use std::sync::Arc;

/// A record that was read.
#[derive(Clone, Debug)]
pub struct Row {
    /// Its offset.
    pub offset: i64,
    /// When it was appended, as the job read it. Its log time may be later; the copy does not know.
    pub appended: Ms,
    /// What it says; contacts and deals have no place in a snapshot.
    pub arrival: Arrival,
    /// What it takes in memory, about: the bytes of its message, or of its texts.
    pub bytes: usize,
}

/// Bytes that no writer makes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damaged;

const CLICK: u8 = 0;
const FORM: u8 = 1;
const DEAD: u8 = 2;

/// Puts rows into bytes.
#[derive(Default)]
pub struct Encoder {
    bytes: Vec<u8>,
    texts: Map<Box<str>, u64>,
    /// Offset and append time of the row before.
    before: (i64, Ms),
}

impl Encoder {
    /// Bytes so far.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// Takes the bytes, and begins anew.
    pub fn take(&mut self) -> Vec<u8> {
        self.texts.clear();
        self.before = (0, 0);
        std::mem::take(&mut self.bytes)
    }

    /// Puts in a row; rows of contacts and deals are not taken.
    pub fn row(&mut self, row: &Row) {
        let Row { offset, appended, arrival, bytes: _ } = row;
        let kind = match arrival {
            Arrival::Click(..) => CLICK,
            Arrival::Form(..) => FORM,
            Arrival::Dead(_) => DEAD,
            Arrival::Contact(..) | Arrival::Deal(..) | Arrival::Carried(_) => return,
        };
        self.bytes.push(kind);
        self.signed(offset.wrapping_sub(self.before.0));
        self.signed(appended.wrapping_sub(self.before.1).cast_signed());
        self.before = (*offset, *appended);
        match arrival {
            Arrival::Click(_, click) => self.click(click, *appended),
            Arrival::Form(_, form) => self.form(form, *appended),
            Arrival::Dead(letter) => self.plain(&serde_json::to_string(&**letter).expect("our own records are JSON")),
            Arrival::Contact(..) | Arrival::Deal(..) | Arrival::Carried(_) => {}
        }
    }

    fn click(&mut self, click: &PackedClick, appended: Ms) {
        // Field by field, so that a new one can't be forgotten.
        let ClickView {
            v,
            id: _,
            ts,
            workspace,
            link,
            title,
            destination,
            tags,
            deal_id,
            contact_id,
            fbclid,
            gclid,
            source,
            medium,
            campaign,
            term,
            content,
            referrer,
            user_agent,
            device,
            os,
            browser,
            country,
            bot,
        } = click.view();
        self.number(u64::from(v));
        self.id(&click.id);
        self.signed(ts.wrapping_sub(appended).cast_signed());
        self.text(Some(workspace));
        self.text(Some(link));
        self.number(tags.len() as u64);
        tags.iter().for_each(|tag| self.text(Some(tag)));
        self.plain_option(fbclid);
        self.plain_option(gclid);
        for text in [
            title,
            destination,
            deal_id,
            contact_id,
            source,
            medium,
            campaign,
            term,
            content,
            referrer,
            user_agent,
            device,
            os,
            browser,
            country,
            bot,
        ] {
            self.text(text);
        }
    }

    fn form(&mut self, form: &Form, appended: Ms) {
        let Form { v, id, ts, workspace, email, fbclid, gclid } = form;
        self.number(u64::from(*v));
        self.id(&ClickId::of(id));
        self.signed(ts.wrapping_sub(appended).cast_signed());
        self.text(Some(workspace));
        self.plain(email);
        self.plain_option(fbclid.as_deref());
        self.plain_option(gclid.as_deref());
    }

    fn number(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.bytes.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.bytes.push((value & 0x7f) as u8);
    }

    fn signed(&mut self, value: i64) {
        self.number(((value << 1) ^ (value >> 63)).cast_unsigned());
    }

    fn plain(&mut self, text: &str) {
        self.number(text.len() as u64);
        self.bytes.extend_from_slice(text.as_bytes());
    }

    /// Length + 1 and the text; 0 for none.
    fn plain_option(&mut self, text: Option<&str>) {
        match text {
            None => self.number(0),
            Some(text) => {
                self.number(text.len() as u64 + 1);
                self.bytes.extend_from_slice(text.as_bytes());
            }
        }
    }

    /// A UUID in its canonical spelling takes 16 bytes: 0 and those; any other text 1 and itself.
    fn id(&mut self, id: &ClickId) {
        match id {
            ClickId::Uuid(uuid) => {
                self.bytes.push(0);
                self.bytes.extend_from_slice(uuid);
            }
            ClickId::Text(text) => {
                self.bytes.push(1);
                self.plain(text);
            }
        }
    }

    /// 0 for none, 1 and the text when it is new, else its number + 2.
    fn text(&mut self, text: Option<&str>) {
        let Some(text) = text else { return self.number(0) };
        if let Some(number) = self.texts.get(text) {
            return self.number(*number + 2);
        }
        self.texts.insert(text.into(), self.texts.len() as u64);
        self.number(1);
        self.plain(text);
    }
}

/// Reads rows back.
pub struct Decoder<'a> {
    bytes: &'a [u8],
    texts: Vec<&'a str>,
    before: (i64, Ms),
    partition: i32,
    /// Bytes of the texts that were read since the row began.
    given: usize,
}

impl<'a> Decoder<'a> {
    /// Of a block of `partition`.
    pub fn new(bytes: &'a [u8], partition: i32) -> Self {
        Decoder { bytes, texts: Vec::new(), before: (0, 0), partition, given: 0 }
    }

    /// The next row; `None` at the end.
    ///
    /// # Errors
    /// Bytes that are not a row.
    pub fn row(&mut self) -> Result<Option<Row>, Damaged> {
        let Some((kind, rest)) = self.bytes.split_first() else { return Ok(None) };
        (self.bytes, self.given) = (rest, 0);
        let offset = self.before.0.wrapping_add(self.signed()?);
        let appended = self.before.1.wrapping_add(self.signed()?.cast_unsigned());
        self.before = (offset, appended);
        let place = Place { partition: self.partition, offset };
        let arrival = match *kind {
            CLICK => Arrival::Click(place, Arc::new(self.click(appended)?)),
            FORM => Arrival::Form(place, Arc::new(self.form(appended)?)),
            DEAD => {
                let letter: DeadLetter = serde_json::from_str(self.plain()?).map_err(|_| Damaged)?;
                Arrival::Dead(Arc::new(letter))
            }
            _ => return Err(Damaged),
        };
        Ok(Some(Row { offset, appended, arrival, bytes: self.given }))
    }

    fn click(&mut self, appended: Ms) -> Result<PackedClick, Damaged> {
        let v = u32::try_from(self.number()?).map_err(|_| Damaged)?;
        let id = self.id()?;
        let ts = appended.wrapping_add(self.signed()?.cast_unsigned());
        let workspace = self.text()?.ok_or(Damaged)?;
        let link = self.text()?.ok_or(Damaged)?;
        let tags = self.number()?;
        let tags = (0..tags).map(|_| self.text()?.ok_or(Damaged)).collect::<Result<_, Damaged>>()?;
        let (fbclid, gclid) = (self.plain_option()?, self.plain_option()?);
        let (title, destination, deal_id, contact_id) = (self.text()?, self.text()?, self.text()?, self.text()?);
        let (source, medium, campaign) = (self.text()?, self.text()?, self.text()?);
        let (term, content) = (self.text()?, self.text()?);
        let (referrer, user_agent, device) = (self.text()?, self.text()?, self.text()?);
        let (os, browser, country, bot) = (self.text()?, self.text()?, self.text()?, self.text()?);
        let click = ClickView {
            v,
            id: &id,
            ts,
            workspace,
            link,
            title,
            destination,
            tags,
            deal_id,
            contact_id,
            fbclid,
            gclid,
            source,
            medium,
            campaign,
            term,
            content,
            referrer,
            user_agent,
            device,
            os,
            browser,
            country,
            bot,
        };
        Ok(click.packed())
    }

    fn form(&mut self, appended: Ms) -> Result<Form, Damaged> {
        Ok(Form {
            v: u32::try_from(self.number()?).map_err(|_| Damaged)?,
            id: self.id()?,
            ts: appended.wrapping_add(self.signed()?.cast_unsigned()),
            workspace: self.text()?.ok_or(Damaged)?.to_owned(),
            email: self.plain()?.to_owned(),
            fbclid: self.plain_option()?.map(str::to_owned),
            gclid: self.plain_option()?.map(str::to_owned),
        })
    }

    fn byte(&mut self) -> Result<u8, Damaged> {
        let (byte, rest) = self.bytes.split_first().ok_or(Damaged)?;
        self.bytes = rest;
        Ok(*byte)
    }

    fn number(&mut self) -> Result<u64, Damaged> {
        let mut value = 0;
        for shift in (0..64).step_by(7) {
            let byte = self.byte()?;
            value |= u64::from(byte & 0x7f) << shift;
            if byte < 0x80 {
                return Ok(value);
            }
        }
        Err(Damaged)
    }

    fn signed(&mut self) -> Result<i64, Damaged> {
        let value = self.number()?;
        Ok((value >> 1).cast_signed() ^ -(value & 1).cast_signed())
    }

    fn slice(&mut self, len: u64) -> Result<&'a [u8], Damaged> {
        let (taken, rest) = usize::try_from(len).ok().and_then(|len| self.bytes.split_at_checked(len)).ok_or(Damaged)?;
        self.bytes = rest;
        self.given += taken.len();
        Ok(taken)
    }

    fn plain(&mut self) -> Result<&'a str, Damaged> {
        let len = self.number()?;
        std::str::from_utf8(self.slice(len)?).map_err(|_| Damaged)
    }

    fn plain_option(&mut self) -> Result<Option<&'a str>, Damaged> {
        match self.number()? {
            0 => Ok(None),
            len => Ok(Some(std::str::from_utf8(self.slice(len - 1)?).map_err(|_| Damaged)?)),
        }
    }

    fn id(&mut self) -> Result<String, Damaged> {
        match self.byte()? {
            0 => {
                let uuid = self.slice(16)?.try_into().map_err(|_| Damaged)?;
                Ok(ClickId::Uuid(uuid).to_string())
            }
            1 => Ok(self.plain()?.to_owned()),
            _ => Err(Damaged),
        }
    }

    fn text(&mut self) -> Result<Option<&'a str>, Damaged> {
        match self.number()? {
            0 => Ok(None),
            1 => {
                let text = self.plain()?;
                self.texts.push(text);
                Ok(Some(text))
            }
            number => {
                let text = usize::try_from(number - 2).ok().and_then(|number| self.texts.get(number)).ok_or(Damaged)?;
                self.given += text.len();
                Ok(Some(text))
            }
        }
    }
}
