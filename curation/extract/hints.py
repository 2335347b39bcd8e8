"""What authors call the parts of their pages: words of `class`, `id`, `role` and `itemprop`, as bits of meaning.

The words were written down by hand from the vocabulary of common site software; pages in every language are built with
English names, some in Indonesian, Malay and Vietnamese use their own. A word counts alone (`entry-content`, `EntryContent`
and `entry content` are the same two words). New kinds go to the end: compiled kernels hold the bits (see
`curation.extract.tags`).
"""

from __future__ import annotations

from curation.extract.tags import word_table

_WORDS = {
    "ARTICLE": "article articles artikel berita bai baiviet blog blogpost entry hentry news newsarticle post posting "
    "singlepost story tin page single topic",
    "BODY": "body content contents contentpart copy noidung description articlebody bodycopy bodytext "
    "entrycontent fulltext isi main maincontent paragraph paragraphs postbody postcontent prose richtext rte storybody "
    "text textbody wysiwyg markdown mw",
    "COMMENT": "comment comments commentlist commenter disqus komentar binhluan livefyre respond reply replies "
    "discussion kommentar kommentare comentarios commentaires talkback feedback",
    "RELATED": "baca bacajuga crosslink discover hot latest lainnya lienquan mehr more "
    "onward outbrain playlist popular popularposts populer prev previous next readmore recent recirc "
    "recirculation recommend recommendation recommendations recommended related relatedposts "
    "relatedarticles similar suggested suggestion suggestions taboola teaser teasers terkait terpopuler tinlienquan trending "
    "trend upnext upsell zergnet verwandt explore yarpp carousel morefrom also alsobought alsolike",
    "SHARE": "addthis addtoany bagikan chiase facebook fb flattr follow followus instagram jiathis like likes linkedin "
    "pinterest reddit share shares sharebar sharedaddy sharethis sharing shareaholic sns social socialmedia socials "
    "telegram tweet twitter whatsapp syndication",
    "NAVIGATION": "bottomnav breadcrumb breadcrumbs crumb crumbs dropdown hamburger megamenu menu menubar menus nav navbar "
    "navi navigation pager paginate pagination paging skip skiplink skiplinks sitemap toolbar topbar topnav "
    "mainmenu submenu subnav jumpnav offcanvas",
    "ASIDE": "aside complementary rail rightrail rhs sidebar sidebars sidenav sidepanel widget widgets "
    "infobox portlet panel flyout",
    "FOOT": "bottombar colophon contentinfo copyright disclaimer foot footer footnav legal sitefooter imprint impressum",
    "HEAD": "banner branding header head logo masthead sitehead siteheader topheader brand",
    "AD": "ad ads adbox adblock adcontainer adslot adunit adsense adsbygoogle advert adverts advertisement advertisements "
    "advertising advertorial adv adwrap adwrapper affiliate anzeige bannerad commercial dfp doubleclick gpt iklan marketing "
    "mpu native partner promo promobox promos promoted promotion promotional publicidad pub quangcao "
    "sponsor sponsored sponsors sponsorship werbung merch shopping buy cta",
    "SUBSCRIBE": "subscribe subscriber subscription subscriptions newsletter newsletters signup mailchimp paywall "
    "mailinglist optin donate donation donations membership register registration premium regwall",
    "META": "byline bylines author authors authorbox avatar bio biography contributor contributors credit credits date "
    "dates dateline datetime dateposted entrymeta infos kategori keyword keywords meta metadata "
    "penulis posted postdate postedby postinfo postmeta postmetadata published publisher pubdate reporter rubrik "
    "submitted tag tags tagcloud tagged taglist tagz category categories cat timestamp time updated views vcard writer "
    "source readingtime duration label eyebrow kicker rating ratings stars vote votes counter info authi authorinfo pls "
    "postauthor postdetails poster posthead postprofile postsig sig signature signatures userbit userbox userinfo userprofile "
    "usertitle",
    "CAPTION": "caption captions figcaption imagecaption photocaption photocredit imagecredit wpcaption attribution "
    "photo gallery slideshow thumbnail thumb thumbs",
    "POPUP": "cookie cookies cookiebar consent gdpr dialog modal onetrust overlay popover popup "
    "toast tooltip interstitial privacy ccpa adblocker backdrop jetpack",
    "HIDDEN": "hidden hide invisible noprint noscreen sr screenreader visuallyhidden offscreen printonly assistive",
    "FORM": "form forms login loginform logon signin search searchbox searchform searchbar account cart basket checkout "
    "captcha poll survey quiz contactform contact",
    "TITLE": "headline heading title subtitle subhead subheading subheadline deck dek standfirst lead lede abstract excerpt "
    "intro summary",
    "TOOLS": "print printfriendly email mail download downloads font fontsize resize bookmark actions action tools tool "
    "utility utilities edit edits editsection back totop backtotop button buttons btn controls control report facet facets "
    "filter filters refine sort sortbar sortby sorting",
    "QUOTE": "pullquote pullout pull factbox highlights keypoints takeaways",
    "FORUM": "forum forums thread threads viewtopic message messages answer answers question questions postbit",
    "REFERENCE": "reference references reflist footnote footnotes citation citations bibliography",
}
NAMES = list(_WORDS)
(
    ARTICLE,
    BODY,
    COMMENT,
    RELATED,
    SHARE,
    NAVIGATION,
    ASIDE,
    FOOT,
    HEAD,
    AD,
    SUBSCRIBE,
    META,
    CAPTION,
    POPUP,
    HIDDEN,
    FORM,
    TITLE,
    TOOLS,
    QUOTE,
    FORUM,
    REFERENCE,
) = (1 << i for i in range(len(NAMES)))
LINK, LANG = 1 << 40, 1 << 41  # the element has href, lang

HINT_KEYS, HINT_VALUES = word_table(
    {
        word: sum(1 << i for i, name in enumerate(NAMES) if word in _WORDS[name].split())
        for word in dict.fromkeys(" ".join(_WORDS.values()).split())
    }
)
