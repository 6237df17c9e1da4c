from .page import SECTIONS as SECTIONS, write_page as write_page
